"""Rules: what is accepted as one, and which peers it is for."""

import grp
import pwd
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from nsbroker.daemon import configuration
from nsbroker.daemon.peer import Peer
from nsbroker.daemon.policy.rules import Loader, Policy, load
from nsbroker.errors import ConfigurationError
from nsbroker.model.identity import NamespaceType
from tests.world import ALICE, BOB

NET = (NamespaceType.NET,)


def peer(uid: int, *groups: int, anonymous: bool = False, unit: str | None = None) -> Peer:
    """A peer as the policy sees it.  It is made up; test_peer tests the uids and units of real peers."""
    among = frozenset(groups).intersection
    return cast(Peer, SimpleNamespace(uid=uid, groups_among=among, anonymous=anonymous, unit=lambda: unit))


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


def test_the_unit_of_a_peer_is_read_anew_on_every_call(tmp_path: Path) -> None:
    rules = policy(tmp_path, rule(who=["unit:a.service"]))
    units = iter(["a.service", None])
    moving = cast(Peer, SimpleNamespace(uid=ALICE, anonymous=False, unit=lambda: next(units)))
    assert allows(rules, moving, "name:x")
    assert not allows(rules, moving, "name:x")


def test_peers_that_differ_only_in_groups_that_no_rule_names_share_their_grants(tmp_path: Path) -> None:
    rules = policy(tmp_path, rule(who=["group:77", "group:78"]))
    for number in range(100):
        assert not allows(rules, peer(ALICE, ALICE, number + 1000), "name:x")
        assert allows(rules, peer(ALICE, ALICE, number + 1000, 77), "name:x")
        # The groups of a peer whose uid proves nothing prove nothing either.
        assert not allows(rules, peer(0, 77 + number % 2, anonymous=True), "name:x")
    assert len(rules._grants) == 3


def test_without_a_rule_for_a_group_no_peer_is_asked_for_its_groups(tmp_path: Path) -> None:
    rules = policy(tmp_path, rule(who=f"user:{ALICE}"))
    assert allows(rules, cast(Peer, SimpleNamespace(uid=ALICE, anonymous=False)), "name:x")


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


def test_every_word_that_is_wrong_is_said_with_its_line_and_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        policy(
            tmp_path,
            'who = ["user:", "everyone",\n"compose:a/b"]\ntargets = ["own", "nmae:x"]\nsockets = ["inet", "*"]\ncreate = "nat"\n',
            rule(),
            'who = "everyone"\ntargets = ["own"]\ndevices = ["null=1:4", "null"]\n',
        )
    path = tmp_path / "nsbroker.toml"
    said = [
        f"{path}:3: rule 'r0': who: 'user:' is none of user:NAME",
        f"{path}:4: rule 'r0': who: 'compose:a/b': an image can claim",
        f"{path}:5: rule 'r0': targets: 'nmae:x': there is no kind of target 'nmae'; did you mean name:?",
        f"{path}:6: rule 'r0': sockets: 'inet' is no kind of socket",
        f"{path}:7: rule 'r0': create: ",
        f"{path}:15: rule 'r2': devices: 'null' cannot be both",
    ]
    assert [problem.startswith(words) for problem, words in zip(caught.value.problems, said, strict=True)] == [True] * 6


def test_patterns_that_fit_nothing_are_warned_of_with_their_line(tmp_path: Path) -> None:
    rules = policy(tmp_path, rule(who=["docker:a/b/c/*"], targets=["name:*", "name:a/*"]))
    path = tmp_path / "nsbroker.toml"
    assert rules.warnings[-2:] == [
        f"{path}:3: rule 'r0': who: 'docker:a/b/c/*' fits nobody: a container has at most 2 '/' in its name",
        f"{path}:4: rule 'r0': targets: 'name:a/*' fits nothing: no target that begins with name: has '/'",
    ]


def test_the_configuration_that_ships_compiles() -> None:
    settings, policy = load(configuration.SHIPPED)
    assert [rule.name for rule in policy.rules] == ["root", "own"]
    assert settings.files == (configuration.SHIPPED,)


def test_peers_whom_the_same_rules_fit_share_what_is_remembered(tmp_path: Path) -> None:
    both = policy(tmp_path, rule(), rule(who=[f"user:{ALICE}"]))
    assert both.grants(peer(BOB)) is both.grants(peer(BOB + 1, 7, 8))
    assert both.grants(peer(ALICE)) is not both.grants(peer(BOB))


def write(path: Path, name: str, who: str) -> None:
    path.write_text(f'[[allow]]\nname = "{name}"\n{rule(who=who)}')


def test_only_what_changed_is_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nsbroker.d").mkdir()
    same, changing = tmp_path / "nsbroker.d" / "a.toml", tmp_path / "nsbroker.d" / "b.toml"
    write(same, "same", "user:nobody-yet")
    write(changing, "changing", f"user:{ALICE}")
    loader = Loader(tmp_path)
    first = loader.load()[1]
    write(changing, "changed", f"user:{ALICE}")
    second = loader.load()[1]
    assert second.rules[0] is first.rules[0]
    assert [one.name for one in second.rules] == ["same", "changed"]
    assert second.warnings == first.warnings != []
    # A broken file changes nothing of what is known of others.
    write(changing, "broken", "nobody:at-all")
    with pytest.raises(ConfigurationError, match="broken"):
        loader.load()
    changing.unlink()
    assert loader.load()[1].rules[0] is first.rules[0]
    # The same words can mean another user.
    monkeypatch.setattr("nsbroker.daemon.policy.rules.find_uid", lambda _: BOB)
    assert loader.load()[1].rules[0].uids == {BOB}


def test_files_that_were_swapped_are_read_anew(tmp_path: Path) -> None:
    (tmp_path / "nsbroker.d").mkdir()
    one, other = tmp_path / "nsbroker.d" / "a.toml", tmp_path / "nsbroker.d" / "b.toml"
    write(one, "one", "everyone")
    write(other, "other", "everyone")
    loader = Loader(tmp_path)
    assert [one.name for one in loader.load()[1].rules] == ["one", "other"]
    between = tmp_path / "between"
    one.rename(between)
    other.rename(one)
    between.rename(other)
    policy = loader.load()[1]
    assert [(one.name, one.origin.name) for one in policy.rules] == [("other", "a.toml"), ("one", "b.toml")]
