"""The details that a chart shows of namespaces and columns, and how long names are broken."""

import pytest

from nsbroker.cli.drawing.details import about_column, about_namespace, wrap_name
from nsbroker.cli.drawing.grouping import columns_of
from nsbroker.model.description import LeadingProcess, Reference, ReferenceKind
from nsbroker.model.identity import NamespaceType
from tests.cli.imagined import HOSTILE, HOSTILE_AS_TEXT, Imagined, T


def test_details_of_namespaces_and_columns() -> None:
    host = Imagined()
    ns = host.make(
        T.PID, "nginx: master", [Reference(ReferenceKind.MOUNT, path="/run/x"), Reference(ReferenceKind.DESCRIPTOR, 900, 5)]
    )
    ns.owner, ns.parent = 4026531837, 4026531836
    assert list(about_namespace(ns, ["docker:web", "docker:db"])) == [
        f"pid:[{ns.inode}]",
        "shared by: docker:web, docker:db",
        "processes: 1",
        "leader: 101 nginx: master (uid 0)",
        "used by: /run/x, file 5 of process 900",
        "owner: uid 0, user:[4026531837]",
        "parent: pid:[4026531836]",
    ]
    ns.process = LeadingProcess(7, command="[ended]")
    assert "leader: 7 [ended]" in about_namespace(ns, ["docker:web"])
    host.unit(HOSTILE)
    column = columns_of(host.namespaces, list(NamespaceType))[0]
    assert list(about_column(column))[-1] == f"2 units: unit:{HOSTILE_AS_TEXT}, unit:init.scope"


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("web", ["web"]),
        ("", []),
        ("shop-web/checkout-7db6", ["shop-web/", "checkout-7db6"]),
        ("x" * 30, ["x" * 13, "x" * 13, "xxxx"]),
        ("名" * 8, ["名" * 6, "名" * 2]),
        ("a" * 60 + "-the-end", ["a" * 13, "a" * 12 + "…", "aaaaa-the-end"]),
    ],
)
def test_long_names_are_broken_at_separators_and_keep_their_end(name: str, lines: list[str]) -> None:
    assert wrap_name(name, 13, 3) == lines
