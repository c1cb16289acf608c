"""What the rules that fit a peer allow it: patterns, `own`, types and the names in a verdict."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from nsbroker.daemon.policy.grants import Grants, Rule
from nsbroker.daemon.policy.permission import Allowance
from nsbroker.daemon.policy.restriction import UNRESTRICTED
from nsbroker.daemon.policy.scope import Scope
from nsbroker.model.identity import NamespaceType
from nsbroker.model.target import Target
from tests.daemon.policy.test_rules import NET, allows, peer, policy, rule
from tests.world import ALICE


def test_nothing_is_allowed_without_a_rule(tmp_path: Path) -> None:
    assert not allows(policy(tmp_path), peer(0), "pid:1", own=True)


@pytest.mark.parametrize(
    ("pattern", "fits", "misses"),
    [
        ("*", ["pid:1", "name:blue", "cri:a/b/c"], []),
        ("name:blue", ["name:blue"], ["name:blue2", "name:BLUE", "docker:blue"]),
        ("name:*", ["name:blue", "name:x"], ["docker:blue", "pid:1"]),
        ("docker:web-?", ["docker:web-1"], ["docker:web-", "docker:web-12", "podman:web-1"]),
        ("cri:default/*", ["cri:default/pod"], ["cri:default/pod/c1", "cri:other/pod"]),
        ("path:/run/x/*", ["path:/run/x/a"], ["path:/run/x/a/b", "path:/run/y/a"]),
        ("net:[40*]", ["net:[4026531840]"], ["net:[5]", "uts:[4026531840]"]),
        ("pid:4711", ["pid:4711"], ["pid:47110", "tid:4711/4711"]),
        ("name:a.c", ["name:a.c"], ["name:abc"]),
        ("self", ["self"], ["pid:1"]),
    ],
)
def test_which_targets_a_pattern_names(tmp_path: Path, pattern: str, fits: list[str], misses: list[str]) -> None:
    rules = policy(tmp_path, rule(targets=[pattern]))
    for target in (*fits, *misses):
        grants = rules.grants(peer(ALICE))
        names = (target,)
        assert grants.is_named(names) is (target in fits), target
        assert grants.verdict(names, NET, own=False).allowed is (target in fits), target


def test_own_fits_processes_of_the_peer_but_does_not_let_it_know_what_exists(tmp_path: Path) -> None:
    grants = policy(tmp_path, rule(targets=["own"])).grants(peer(ALICE))
    assert grants.verdict(("pid:1",), NET, own=True).allowed
    assert not grants.verdict(("pid:1",), NET, own=False).allowed
    assert grants.may_ask(Target.process(1), ("pid:1",), None)
    assert not grants.is_named(("pid:1",))
    assert grants.may_ask(Target.named("blue"), ("name:blue",), None), "the broker may hold something for the peer"
    assert not grants.may_ask(Target.path("/run/x"), ("path:/run/x",), None), "a file is nobody's own"


def test_types_of_several_rules_add_up_and_the_verdict_names_each_rule(tmp_path: Path) -> None:
    rules = policy(tmp_path, rule(namespaces=["net"]), rule(namespaces=["uts", "net"]), rule(who=["user:5"]))
    verdict = rules.grants(peer(ALICE)).verdict(("name:x",), (NamespaceType.UTS, NamespaceType.NET), own=False)
    assert (verdict.allowed, verdict.rules, verdict.rule) == (True, ["r1", "r0"], "r1 r0")
    verdict = rules.grants(peer(ALICE)).verdict(("name:x",), (NamespaceType.NET, NamespaceType.PID), own=False)
    assert (verdict.allowed, verdict.rules) == (False, ["r0", None])


def test_the_cache_does_not_grow_with_names_that_clients_make_up(tmp_path: Path) -> None:
    rules = policy(tmp_path, rule(targets=["name:a*"]))
    grants = rules.grants(peer(ALICE))
    for number in range(5000):
        assert allows(rules, peer(ALICE), f"name:a{number}")
        assert not allows(rules, peer(ALICE), f"name:b{number}")
    assert len(grants._fits) <= 64
    assert len(grants._verdicts) <= 64


def test_what_is_derived_is_remembered_as_long_as_the_grants_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nsbroker.daemon.policy.grants._DERIVED_MAX", 2)
    grants = policy(tmp_path, rule(targets=["pid:*"])).grants(peer(ALICE))
    made = []

    def make(of: Grants, key: str) -> bool:
        made.append(key)
        return of.verdict((key,), NET, own=False).allowed

    assert [grants.derive(key, make) for key in ("pid:1", "pid:1", "name:x", "pid:1")] == [True, True, False, True]
    assert made == ["pid:1", "name:x"]
    # It does not grow without end.
    assert grants.derive("pid:2", make)
    assert grants.derive("pid:1", make)
    assert made == ["pid:1", "name:x", "pid:2", "pid:1"]


def test_for_a_name_that_another_user_chose_a_pattern_adds_nothing_to_a_rule_with_this_name(tmp_path: Path) -> None:
    rules = policy(
        tmp_path,
        rule(targets=["name:lab"], namespaces=["net"]),
        rule(targets=["name:*"], namespaces=["uts"]),
        rule(targets=["*"], namespaces=["ipc"]),
    )
    grants = rules.grants(peer(ALICE))
    names, wanted = ("name:lab",), (NamespaceType.NET, NamespaceType.UTS, NamespaceType.IPC)
    assert grants.verdict(names, wanted, own=False).rules == ["r0", "r1", "r2"]
    assert grants.exactly("name:lab").verdict(names, wanted, own=False).rules == ["r0", None, "r2"]
    assert grants.exactly("name:lab-2").verdict(("name:lab-2",), wanted, own=False).rules == [None, None, "r2"]
    assert grants.types_of_held("name:lab", own=False) == {NamespaceType.NET, NamespaceType.IPC}
    assert grants.types_of_held("name:lab", own=True) == set(wanted)
    # A restriction counts in the same way.
    allowance = Allowance.parse(namespaces=["net", "ipc"])
    for targets, types in ((["name:lab"], {NamespaceType.NET, NamespaceType.IPC}), (["name:*"], set())):
        left = grants.restricted(UNRESTRICTED.narrow(Scope.parse(targets, allowance), ""))
        assert left.types_of_held("name:lab", own=False) == types
        assert left.exactly("name:lab").verdict(names, wanted, own=False).rules == [
            "r0" if types else None,
            None,
            "r2" if types else None,
        ]


def test_what_may_be_opened_of_what_others_hold_is_found_without_further_grants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list asks this about everything that is held, on the event loop, and grants take time in proportion to their rules."""
    rules = policy(
        tmp_path,
        rule(targets=["name:lab-1"], namespaces=["net"]),
        rule(targets=["name:*"], namespaces=["uts"]),
        rule(targets=["*"], namespaces=["ipc"]),
    )
    grants, make, made = rules.grants(peer(ALICE)), Grants.__init__, []

    def count(self: Grants, rules: Sequence[Rule]) -> None:
        made.append(rules)
        make(self, rules)

    monkeypatch.setattr(Grants, "__init__", count)
    found = [grants.types_of_held(f"name:lab-{number}", own=False) for number in range(3)]
    assert found == [{NamespaceType.IPC}, {NamespaceType.NET, NamespaceType.IPC}, {NamespaceType.IPC}]
    assert not made
