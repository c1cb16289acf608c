"""The broker before Linux 6.5, where the kernel shows it the user and the groups of a caller, but not the process."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from nsbroker.client.blocking import Broker, connect
from nsbroker.errors import NoSuchTarget, PermissionDenied
from nsbroker.linux.features import features
from tests.world import ALICE, BOB, Daemon, Sleeper, as_user, run_command

T = TypeVar("T")

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(features().peer_pidfd, reason="this kernel has SO_PEERPIDFD: `tests/as-linux 6.4` hides it"),
]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path, by_number=False) as running:
        yield running


def ask(daemon: Daemon, uid: int, question: Callable[[Broker], T]) -> T:
    def connected() -> T:
        with connect(daemon.address) as broker:
            return question(broker)

    return as_user(uid, connected)


def opens(target: str, ns_type: str = "net") -> Callable[[Broker], bool]:
    def question(broker: Broker) -> bool:
        try:
            broker.open(target, ns_type).close()
        except PermissionDenied:
            return False
        return True

    return question


def test_own_processes_and_rules_for_users_and_groups_work(daemon: Daemon, sleeper: Sleeper) -> None:
    daemon.allow("alice", who=[f"user:{ALICE}"], targets=[f"pid:{sleeper.pid}"], namespaces=["net"])
    daemon.allow("group", who=["group:4242"], targets=[f"pid:{sleeper.pid}"], namespaces=["uts"])
    with Sleeper(uid=ALICE) as hers:
        for uid, target, ns_type, expected in (
            (ALICE, hers.pid, "net", True),
            (BOB, hers.pid, "net", False),
            (ALICE, sleeper.pid, "net", True),
            (BOB, sleeper.pid, "net", False),
            (ALICE, sleeper.pid, "uts", False),
        ):
            assert ask(daemon, uid, opens(f"pid:{target}", ns_type)) is expected

    def with_group() -> bool:
        with connect(daemon.address) as broker:
            return opens(f"pid:{sleeper.pid}", "uts")(broker)

    assert as_user(BOB, with_group, groups=[4242])


def test_root_is_anonymous_and_gets_the_reason(daemon: Daemon, sleeper: Sleeper) -> None:
    with daemon.connect() as broker:
        assert broker.who_am_i().anonymous
        with pytest.raises(PermissionDenied, match="only rules for everyone apply"):
            broker.open(f"pid:{sleeper.pid}", "net")
    assert re.search("^user +0 .anonymous: before Linux 6.5", run_command("whoami", address=daemon.address).stdout, re.M)
    daemon.allow("everyone", who="everyone", targets=[f"pid:{sleeper.pid}"], namespaces=["net"])
    with daemon.connect() as broker:
        broker.open(f"pid:{sleeper.pid}", "net").close()


def test_the_error_for_self_suggests_targets_that_work(daemon: Daemon) -> None:
    def question(broker: Broker) -> str:
        broker.open(f"pid:{os.getpid()}", "net").close()
        with pytest.raises(NoSuchTarget) as caught:
            broker.open("self", "net")
        return str(caught.value)

    assert "pid:NUMBER, or send a pidfd" in ask(daemon, ALICE, question)


def test_doctor_finds_no_failure(daemon: Daemon) -> None:
    for uid, says in ((ALICE, "by the rule own"), (0, "no rule lets you open even your own namespaces")):
        done = run_command("doctor", address=daemon.address, uid=uid, cwd="/")
        assert (done.returncode, done.stderr) == (0, ""), done
        assert says in done.stdout
        assert "only rules for everyone apply" in done.stdout


def test_doctor_finds_no_failure_in_another_pid_namespace(daemon: Daemon) -> None:
    command = [sys.executable, "-m", "nsbroker", "doctor"]
    user = ["setpriv", f"--reuid={ALICE}", f"--regid={ALICE}", "--clear-groups", "--bounding-set=-all"]
    environment = {**os.environ, "NSBROKER_ADDRESS": daemon.address}
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", *user, *command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done
    assert "by the rule own" in done.stdout


def test_rules_that_fit_nobody_cause_warnings(daemon: Daemon) -> None:
    daemon.allow("unit", who=["unit:web.service", "everyone"], targets=["own"], namespaces=["net"])
    printed = run_command("check-config", "--config", str(daemon.config)).stderr
    for text in (printed, "\n".join(daemon.words())):
        assert "rule 'root': who: user:root fits nobody: before Linux 6.5" in text
        assert "rule 'unit': who: unit:web.service fits nobody: before Linux 6.5" in text
        assert "everyone fits" not in text
