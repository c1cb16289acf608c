"""A restriction leaves exactly what the policy and each of its scopes allow by themselves."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsbroker.daemon.policy.grants import Grants, Rule, names_of
from nsbroker.daemon.policy.permission import (
    EVERY_DEVICE,
    Allowance,
    Creation,
    Device,
    DeviceNumber,
    File,
    Holding,
    Mark,
    Permission,
)
from nsbroker.daemon.policy.restriction import UNRESTRICTED, Restriction
from nsbroker.daemon.policy.scope import NamePatterns, Scope
from nsbroker.errors import QuotaExceeded
from nsbroker.model.identity import NamespaceType
from nsbroker.model.interface import InterfaceKind
from nsbroker.model.socket_kind import SocketKind
from nsbroker.model.target import Target

PATTERNS = ("*", "own", "self", "pid:1", "pid:*", "name:a", "name:?", "docker:web", "container:*", "net:[40*]", "unit:*")
TARGETS = ("self", "pid:1", "pid:2", "name:a", "name:bb", "docker:web", "podman:web", "net:[4026531840]", "unit:a.service")
WANTED: tuple[Permission, ...] = (
    NamespaceType.NET,
    NamespaceType.UTS,
    SocketKind.parse("inet:stream"),
    Device("null", DeviceNumber(1, 3)),
    Device("x", DeviceNumber(240, 0)),
    Creation(NamespaceType.NET),
    Holding(NamespaceType.NET),
    EVERY_DEVICE,
    Mark(0x100),
    Mark(0x1FF),
    Mark(2**32 - 1),
    InterfaceKind.VETH,
    InterfaceKind.TAP,
    File("net/dev"),
)


def narrow(targets: list[str], **permissions: list[str]) -> dict[str, Any]:
    """A scope, written as a rule is."""
    keys = ("namespaces", "sockets", "devices", "create", "hold", "marks", "interfaces", "files")
    return {"targets": targets, **{key: permissions.get(key, []) for key in keys}}


_scope = st.builds(
    narrow,
    st.lists(st.sampled_from(PATTERNS), max_size=3),
    namespaces=st.lists(st.sampled_from(("net", "uts", "*")), max_size=2),
    sockets=st.sampled_from(([], ["*"], ["inet:stream"], ["inet:dgram"])),
    devices=st.sampled_from(([], ["*"], ["null"], ["x=240:0"], ["x=240:1"])),
    create=st.sampled_from(([], ["net"])),
    hold=st.sampled_from(([], ["net"], ["uts"])),
    marks=st.lists(st.sampled_from(("0x100", "0x80-0x17f", "0x180-0xffffffff", "*")), max_size=2),
    interfaces=st.lists(st.sampled_from(("veth", "tap", "*")), max_size=2),
    files=st.sampled_from(([], ["*"], ["net/dev"], ["hosts"])),
)


def scope(text: dict[str, Any]) -> Scope:
    return Scope.parse(text["targets"], Allowance.parse(**{key: text[key] for key in list(text)[1:]}))


def grants(*texts: dict[str, Any]) -> Grants:
    """The grants of rules for everyone."""
    return Grants(
        [
            Rule.parse(
                text["targets"],
                scope(text).allowance,
                name=f"r{number}",
                origin=Path("x"),
                everyone=True,
                uids=frozenset(),
                gids=frozenset(),
                units=frozenset(),
                workloads=NamePatterns(),
                workload_engines=frozenset(),
                until=math.inf,
            )
            for number, text in enumerate(texts)
        ]
    )


def restriction(*texts: dict[str, Any]) -> Restriction:
    found = UNRESTRICTED
    for text in texts:
        found = found.narrow(scope(text), " ".join(text["targets"]))
    return found


@settings(max_examples=100)
@given(st.lists(_scope, min_size=1, max_size=3), st.lists(_scope, min_size=1, max_size=3))
def test_a_verdict_is_that_of_the_policy_and_of_each_scope(rules: list[dict[str, Any]], scopes: list[dict[str, Any]]) -> None:
    base = grants(*rules)
    left = base.restricted(restriction(*scopes))
    parts = [base, *map(grants, scopes)]
    for text in TARGETS:
        target = Target.parse(text)
        names = names_of(target)
        for own in (False, True):
            for wanted in WANTED:
                found = left.verdict(names, (wanted,), own=own)
                assert found.allowed is all(part.verdict(names, (wanted,), own=own).allowed for part in parts)
                assert not found.by_name[0] or left.is_named(names)
                if found.allowed:
                    assert left.may_ask(target, names, (wanted,))
            assert left.types(names, own=own) == frozenset.intersection(*(part.types(names, own=own) for part in parts))
        assert left.is_named(names) is all(part.is_named(names) for part in parts)
        assert left.is_named_exactly(text) is all(part.is_named_exactly(text) for part in parts)
        assert left.types_of_held(text, own=False) == left.exactly(text).types((text,), own=False)
        if left.types(names, own=False):
            # List and Watch look only at kinds for which this is so.
            assert left.everywhere() or left.has_kind(text.partition(":")[0]) or any(map(left.may_name, names_kinds(names)))
        if left.types(names, own=True):
            assert left.has_own or left.types(names, own=False)
    assert left.everywhere() == frozenset.intersection(*(part.everywhere() for part in parts))


def names_kinds(names: tuple[str, ...]) -> list[str]:
    return [name.partition(":")[0] for name in names]


@given(st.lists(_scope, min_size=1, max_size=2), _scope, _scope)
def test_a_further_scope_never_gives_anything_back(
    rules: list[dict[str, Any]], first: dict[str, Any], second: dict[str, Any]
) -> None:
    base = grants(*rules)
    before, after = base.restricted(restriction(first)), base.restricted(restriction(first, second))
    for text in TARGETS:
        names = names_of(Target.parse(text))
        for own in (False, True):
            assert after.types(names, own=own) <= before.types(names, own=own) <= base.types(names, own=own)
            assert after.types_of_held(text, own=own) <= before.types_of_held(text, own=own)
        assert before.is_named(names) or not after.is_named(names)
        assert before.may_release(text, [NamespaceType.NET]) or not after.may_release(text, [NamespaceType.NET])


def test_a_target_without_a_name_is_left_only_by_own_or_anything() -> None:
    base = grants(narrow(["own"], namespaces=["net"]))
    assert base.allows_unnamed
    assert base.restricted(restriction(narrow(["own"], namespaces=["net"]))).allows_unnamed
    assert base.restricted(restriction(narrow(["*"], namespaces=["net"]))).allows_unnamed
    named = base.restricted(restriction(narrow(["podman:web"], namespaces=["net"])))
    assert not named.allows_unnamed
    assert not named.types((), own=True)


def test_what_remains_is_described_for_the_record() -> None:
    both = restriction(
        narrow(["name:*", "own"], namespaces=["*"], sockets=["*"], devices=["null", "kvm"], create=["net"]),
        narrow(["name:a"], namespaces=["net", "uts"], sockets=["inet:stream"], devices=["*"], hold=["net"]),
    )
    assert both.targets_text() == "name:* own & name:a"
    assert both.permissions_text() == "namespaces net uts, sockets inet:stream, devices kvm null"
    third = restriction(
        narrow(["*"], marks=["0x200-0x2ff", "0x100", "0x300-0x3ff"], interfaces=["*"]),
        narrow(["*"], marks=["1-0x100", "0x280-0x380", "0x3ff"], interfaces=["tap"]),
    )
    assert third.permissions_text() == "marks 0x100 0x280-0x380 0x3ff, interfaces tap"
    apart = restriction(narrow(["*"], marks=["1-5"]), narrow(["*"], marks=["6-9"]))
    assert apart.permissions_text() == "nothing"
    assert restriction(narrow(["*"], marks=["*"], interfaces=["veth", "tap"])).permissions_text() == "marks *, interfaces *"
    everything = restriction(narrow(["*"], namespaces=["*"], sockets=["*"], devices=["*"], create=["net"], hold=["*"]))
    assert everything.permissions_text() == "namespaces *, sockets *, devices *, create net, hold *"
    assert restriction(narrow([])).permissions_text() == "nothing"
    files = narrow(["*"], files=["hosts", "resolv.conf", "net/dev"]), narrow(["*"], files=["net/dev", "hosts"])
    assert restriction(*files).permissions_text() == "files hosts net/dev"
    assert restriction(narrow(["*"], files=["*"])).permissions_text() == "files *"


_range = st.tuples(st.integers(1, 40), st.integers(1, 40)).map(sorted)


@given(st.lists(st.lists(_range, max_size=4), min_size=1, max_size=3))
def test_the_record_names_exactly_the_marks_that_remain(scopes: list[list[list[int]]]) -> None:
    left = restriction(*[narrow(["*"], marks=[f"{first}-{last}" for first, last in ranges]) for ranges in scopes])
    text = left.permissions_text().removeprefix("marks ").replace("nothing", "")
    named: list[int] = []
    for word in text.split():
        first, _, last = word.partition("-")
        named += range(int(first, 16), int(last or first, 16) + 1)
    assert named == [mark for mark in range(1, 45) if left.allows(Mark(mark))]


def test_a_scope_that_is_already_there_counts_once_and_others_are_limited() -> None:
    found = restriction(*[narrow([f"name:{number}"], namespaces=["net"]) for number in range(4)])
    assert found.narrow(scope(narrow(["name:3"], namespaces=["net"])), "name:3") is found
    with pytest.raises(QuotaExceeded, match="restrictions of one connection"):
        found.narrow(scope(narrow(["name:4"], namespaces=["net"])), "name:4")
