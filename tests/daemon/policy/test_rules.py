import grp
import pwd
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from nsbroker.daemon import configuration
from nsbroker.daemon.peer import Peer
from nsbroker.daemon.policy.rules import Policy
from nsbroker.errors import ConfigurationError
from nsbroker.model.identity import NamespaceType
from nsbroker.model.target import Target
from tests.world import ALICE, BOB

NET = (NamespaceType.NET,)


def peer(uid: int, *groups: int, anonymous: bool = False, unit: str | None = None) -> Peer:
    """A peer as the policy sees it.  Made up here: which uids and units real peers have is shown in test_peer."""
    return cast(Peer, SimpleNamespace(uid=uid, groups=frozenset(groups), anonymous=anonymous, unit=lambda: unit))


def policy(tmp_path: Path, *rules: str) -> Policy:
    path = tmp_path / "nsbroker.toml"
    path.write_text("\n".join(f'[[allow]]\nname = "r{number}"\n{rule}' for number, rule in enumerate(rules)))
    return Policy(configuration.load(path))


def rule(who: object = "everyone", targets: object = ("*",), namespaces: object = ("*",)) -> str:
    def text(value: Any) -> str:
        return f'"{value}"' if isinstance(value, str) else str(list(value)).replace("'", '"')

    return f"who = {text(who)}\ntargets = {text(targets)}\nnamespaces = {text(namespaces)}\n"


def allows(policy: Policy, who: Peer, target: str, types: tuple[NamespaceType, ...] = NET, *, own: bool = False) -> bool:
    return policy.grants(who).verdict((target,), types, own=own).allowed


def test_nothing_is_allowed_without_a_rule(tmp_path: Path) -> None:
    assert not allows(policy(tmp_path), peer(0), "pid:1", own=True)


@pytest.mark.parametrize(
    ("who", "fits"),
    [
        ("everyone", {"alice", "bob", "anonymous"}),
        (["everyone"], {"alice", "bob", "anonymous"}),
        ([f"user:{ALICE}"], {"alice"}),
        (["group:77"], {"bob"}),
        (["unit:a.service"], {"bob"}),
        ([f"user:{ALICE}", "group:77"], {"alice", "bob"}),
        (["user:root"], set()),
    ],
)
def test_who_a_rule_is_for(tmp_path: Path, who: object, fits: set[str]) -> None:
    rules = policy(tmp_path, rule(who=who))
    peers = {
        "alice": peer(ALICE, ALICE),
        "bob": peer(BOB, BOB, 77, unit="a.service"),
        "anonymous": peer(0, 0, 77, anonymous=True, unit="a.service"),
    }
    assert {name for name, someone in peers.items() if allows(rules, someone, "name:blue")} == fits


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


def test_own_fits_processes_of_the_peer_and_gives_no_right_to_know(tmp_path: Path) -> None:
    grants = policy(tmp_path, rule(targets=["own"])).grants(peer(ALICE))
    assert grants.verdict(("pid:1",), NET, own=True).allowed
    assert not grants.verdict(("pid:1",), NET, own=False).allowed
    assert grants.may_ask(Target.process(1), ("pid:1",), None)
    assert not grants.is_named(("pid:1",))
    assert grants.may_ask(Target.named("blue"), ("name:blue",), None), "the broker may hold something for the peer"
    assert not grants.may_ask(Target.path("/run/x"), ("path:/run/x",), None), "a file is nobody's own"


def test_types_add_up_over_rules_and_the_verdict_names_each(tmp_path: Path) -> None:
    rules = policy(tmp_path, rule(namespaces=["net"]), rule(namespaces=["uts", "net"]), rule(who=["user:5"]))
    verdict = rules.grants(peer(ALICE)).verdict(("name:x",), (NamespaceType.UTS, NamespaceType.NET), own=False)
    assert (verdict.allowed, verdict.rules, verdict.rule) == (True, ["r1", "r0"], "r1 r0")
    verdict = rules.grants(peer(ALICE)).verdict(("name:x",), (NamespaceType.NET, NamespaceType.PID), own=False)
    assert (verdict.allowed, verdict.rules) == (False, ["r0", None])


def test_what_is_remembered_does_not_grow_with_what_clients_make_up(tmp_path: Path) -> None:
    rules = policy(tmp_path, rule(targets=["name:a*"]))
    grants = rules.grants(peer(ALICE))
    for number in range(5000):
        assert allows(rules, peer(ALICE), f"name:a{number}")
        assert not allows(rules, peer(ALICE), f"name:b{number}")
    assert len(grants._fits) <= 64
    assert len(grants._verdicts) <= 64


def test_a_unit_is_asked_for_anew_on_every_call(tmp_path: Path) -> None:
    rules = policy(tmp_path, rule(who=["unit:a.service"]))
    units = iter(["a.service", None])
    moving = cast(Peer, SimpleNamespace(uid=ALICE, groups=frozenset(), anonymous=False, unit=lambda: next(units)))
    assert allows(rules, moving, "name:x")
    assert not allows(rules, moving, "name:x")


def test_names_of_users_and_groups_are_looked_up_and_missing_ones_warn_and_fit_nobody(tmp_path: Path) -> None:
    user, group = pwd.getpwall()[1], grp.getgrall()[1]
    rules = policy(tmp_path, rule(who=[f"user:{user.pw_name}", f"group:{group.gr_name}", "user:nosuchuser", "group:nosuchgroup"]))
    assert allows(rules, peer(user.pw_uid), "name:x")
    assert allows(rules, peer(9999, group.gr_gid), "name:x")
    assert not allows(rules, peer(9999), "name:x")
    assert [word in warning for warning, word in zip(rules.warnings, ("nosuchuser", "nosuchgroup"), strict=True)] == [True, True]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('who = "everybody"\ntargets = ["*"]\nnamespaces = ["net"]', "everybody"),
        ('who = ["user:"]\ntargets = ["*"]\nnamespaces = ["net"]', "user:NAME"),
        ('who = "everyone"\ntargets = ["*"]\nnamespaces = ["network"]', "cgroup, ipc"),
        ('who = "everyone"\ntargets = ["*"]', "allows nothing"),
        ('who = "everyone"\ntargets = []\nnamespaces = ["net"]', "fits nothing"),
        ('who = []\ntargets = ["*"]\nnamespaces = ["net"]', "fits nothing"),
        ('who = ["unit:nginx"]\ntargets = ["*"]\nnamespaces = ["net"]', "unit:NAME.service"),
        ('who = "everyone"\ntargets = ["*"]\ndevices = ["../mem"]', "without . and .."),
        ('who = "everyone"\ntargets = ["*"]\ndevices = ["/dev/null"]', "no name below /dev"),
        ('who = "everyone"\ntargets = ["nmae:*"]\nnamespaces = ["net"]', "nmae"),
        ('who = "everyone"\ntargets = ["nmae:blue"]\nnamespaces = ["net"]', "did you mean name:"),
        ('who = "everyone"\ntargets = ["*x"]\nnamespaces = ["net"]', "pattern"),
        ('who = "everyone"\ntargets = ["*"]\nsockets = ["inet"]', "FAMILY:TYPE"),
        ('who = "everyone"\ntargets = ["*"]\nsockets = ["inet:stream:1024"]', "inet:TYPE:PORT"),
        ('who = "everyone"\ntargets = ["*"]\nsockets = ["unix:stream:80"]', "inet:TYPE:PORT"),
        ('who = "everyone"\ntargets = ["*"]\ndevices = ["mem"]', "mem=MAJOR:MINOR"),
        ('who = "everyone"\ntargets = ["*"]\ndevices = ["mem=1"]', "NAME=MAJOR:MINOR"),
        ('who = "everyone"\ntargets = ["*"]\nsockets = ["inet:strem"]', "FAMILY:TYPE"),
    ],
)
def test_a_rule_that_cannot_be_understood_is_an_error_that_names_file_and_rule(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        policy(tmp_path, text)
    assert str(tmp_path / "nsbroker.toml") in str(caught.value)
    assert "'r0'" in str(caught.value)


def test_what_ships_compiles() -> None:
    assert [rule.name for rule in Policy(configuration.load(Path(configuration.__file__).with_name("nsbroker.toml"))).rules] == [
        "root",
        "own",
    ]
