"""How namespaces are described for people."""

import pwd

import pytest

from nsbroker.cli import formatting
from nsbroker.model.description import Reference, ReferenceKind
from tests.cli.made_up import ns


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (Reference(ReferenceKind.DESCRIPTOR, 4711, 7), "fd 7 of 4711"),
        (Reference(ReferenceKind.SOCKET, 4711, 9), "socket 9 of 4711"),
        (Reference(ReferenceKind.THREAD, 4711, 4715), "thread 4715 of 4711"),
        (Reference(ReferenceKind.CHILDREN, 4711), "children of 4711"),
        (Reference(ReferenceKind.MOUNT, path="/run/netns/blue"), "/run/netns/blue"),
        (Reference(ReferenceKind.MOUNT, 4711, path="/run/netns/blue"), "/run/netns/blue of 4711"),
        (Reference(ReferenceKind.MOUNT, path="/run/netns/a\nb\x1b"), "/run/netns/a\\nb\\x1b"),
        (Reference(ReferenceKind.NAMESPACE, path="user:[4026531837]"), "user:[4026531837]"),
        (Reference(ReferenceKind.DESCRIPTOR, path="name:lab"), "name:lab"),
    ],
)
def test_a_reference_is_described(one: Reference, text: str) -> None:
    assert formatting.reference(one) == text


def test_every_kind_of_reference_is_described() -> None:
    for kind in ReferenceKind:
        assert formatting.used_by(ns(1, references=[Reference(kind, 1, 2, "/x")]))


def test_used_by_names_containers_or_units_or_without_a_process_the_references() -> None:
    descriptor, mount = Reference(ReferenceKind.DESCRIPTOR, 4711, 7), Reference(ReferenceKind.MOUNT, path="/run/netns/blue")
    assert formatting.used_by(ns(1, command="x", containers=["docker:web"], units=["docker-1a.scope"])) == "docker:web"
    assert formatting.used_by(ns(1, command="x", units=["a.service", "b.service", "c.service", "d.service"])) == (
        "a.service, b.service +2"
    )
    assert formatting.used_by(ns(1, command="x", references=[descriptor])) == ""
    assert formatting.used_by(ns(1, references=[descriptor, mount])) == "/run/netns/blue, fd 7 of 4711"
    assert formatting.used_by(ns(1)) == ""


def test_a_user_is_named_or_numbered() -> None:
    assert formatting.user_name(0) == pwd.getpwuid(0).pw_name
    assert formatting.user_name(3999999999) == "3999999999"
    assert formatting.user_name(None) == "-"


def test_how_many_processes() -> None:
    assert [formatting.process_count(ns(1, processes=count)) for count in (0, 1, 2)] == [
        "no process",
        "1 process",
        "2 processes",
    ]
