"""Rules with `until`."""

import datetime
import time
from pathlib import Path

import pytest

from nsbroker.errors import ConfigurationError, NoSuchTarget, PermissionDenied
from nsbroker.model.description import WatchEvent
from tests.daemon.policy.test_rules import allows, peer, policy, rule
from tests.world import ALICE, Daemon, Sleeper, as_user, eventually


def until(seconds: float) -> str:
    """The line of a rule that ends so many seconds from now."""
    end = datetime.datetime.fromtimestamp(time.time() + seconds, datetime.UTC)
    return f"until = {end.isoformat(timespec='milliseconds')}\n"


class Clock:
    """A clock that a test sets: nobody may set the machine's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = time.time()
        monkeypatch.setattr("nsbroker.daemon.policy.rules.time.time", lambda: self.now)


def test_a_rule_fits_until_its_time_is_over_and_never_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    both = policy(tmp_path, rule(targets=["pid:1"]) + until(100), rule(targets=["pid:2"]))
    assert allows(both, peer(ALICE), "pid:1")
    assert 99 < both.seconds_to_next_end() <= 100
    clock.now += 101
    assert not allows(both, peer(ALICE), "pid:1")
    assert allows(both, peer(ALICE), "pid:2")
    clock.now -= 200
    assert not allows(both, peer(ALICE), "pid:1"), "a clock that is set back gives nothing back"


def test_each_rule_that_ends_is_reported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    some = policy(tmp_path, rule() + until(10), rule() + until(20), rule())
    assert some.take_ended() == []
    clock.now += 15
    assert some.take_ended() == ["r0"]
    assert 4 < some.seconds_to_next_end() <= 5
    clock.now += 15
    assert allows(some, peer(ALICE), "pid:1")
    assert some.take_ended() == ["r1"]
    assert some.take_ended() == []
    assert some.seconds_to_next_end() == float("inf")


def test_a_rule_that_had_ended_before_it_was_loaded_is_warned_of(tmp_path: Path) -> None:
    late = policy(tmp_path, rule() + until(-1))
    assert (late.rules, late.take_ended()) == ((), [])
    path = tmp_path / "nsbroker.toml"
    assert late.warnings == [f"{path}:6: rule 'r0': until: its time is over, so it fits nobody: remove the rule"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("until = 2026-12-01T18:00:00", "with its zone, such as 2026-12-01T18:00:00Z"),
        ("until = 2026-12-01", "until"),
        ('until = "2h"', "until"),
        ("until = 12", "until"),
    ],
)
def test_a_time_that_is_none_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        policy(tmp_path, f"{rule()}{text}\n")


@pytest.mark.root
def test_at_the_moment_when_a_rule_ends_calls_are_refused_a_watch_narrows_and_it_is_recorded(
    daemon: Daemon, sleeper: Sleeper
) -> None:
    path = daemon.config / "nsbroker.d/for-a-moment.toml"
    path.write_text(
        f'[[allow]]\nname = "moment"\nwho = "everyone"\ntargets = ["pid:{sleeper.pid}"]\nnamespaces = ["net"]\n{until(3)}'
    )
    daemon.reload()
    inode = sleeper.inode("net")

    def use() -> list[str]:
        outcome = []
        with daemon.connect() as broker:
            with broker.open(f"pid:{sleeper.pid}", "net") as ns:
                outcome.append(str(ns.inode == inode))
            with broker.watch(["net"]) as events:
                for event in events:
                    if event.namespace is not None and event.namespace.inode == inode:
                        outcome.append(event.event)
                        if event.event is WatchEvent.GONE:
                            break
            try:
                broker.open(f"pid:{sleeper.pid}", "net").close()
            except (PermissionDenied, NoSuchTarget) as error:
                outcome.append(type(error).__name__)
        return outcome

    start = time.monotonic()
    assert as_user(ALICE, use) == ["True", "present", "gone", "PermissionDenied"]
    assert time.monotonic() - start > 1
    eventually(lambda: _has_expired(daemon), "the end is recorded")


def _has_expired(daemon: Daemon) -> bool:
    return [record["rule"] for record in daemon.records() if record["verdict"] == "expired"] == ["moment"]
