"""Who may open what: real users ask for their own processes, for those of others, and for what rules name."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nsbroker.client.blocking import connect
from nsbroker.errors import NsbrokerError, PermissionDenied
from tests.daemon.test_dispatcher import call
from tests.world import ALICE, BOB, Daemon, Sleeper, as_user


@pytest.mark.root
def test_users_open_their_own_processes_and_no_others(daemon: Daemon) -> None:
    with Sleeper(uid=ALICE) as mine, Sleeper(uid=BOB) as theirs, Sleeper() as roots:

        def ask() -> list[str]:
            outcomes = []
            with connect(daemon.address) as broker:
                for pid in (mine.pid, theirs.pid, roots.pid, 2**31 - 1):
                    try:
                        broker.open(f"pid:{pid}", "net").close()
                        outcomes.append("opened")
                    except PermissionDenied:
                        outcomes.append("denied")
            return outcomes

        assert as_user(ALICE, ask) == ["opened", "denied", "denied", "denied"]


@pytest.mark.root
def test_a_process_with_one_uid_of_another_user_belongs_to_nobody(daemon: Daemon) -> None:
    ready, tell = os.pipe()
    with Sleeper(uid=ALICE) as plain:
        child = os.fork()
        if child == 0:
            os.setresgid(ALICE, ALICE, ALICE)
            os.setresuid(ALICE, ALICE, BOB)
            os.write(tell, b"!")
            time.sleep(60)
            os._exit(0)
        os.read(ready, 1)

        def ask(pid: int) -> Callable[[], bool]:
            def look() -> bool:
                with connect(daemon.address) as broker:
                    return broker.explain(f"pid:{pid}", ["net"]).allowed

            return look

        assert as_user(ALICE, ask(plain.pid))
        assert not as_user(ALICE, ask(child))
        assert not as_user(BOB, ask(child))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    os.close(ready)
    os.close(tell)


@pytest.mark.root
def test_a_rule_allows_exactly_what_it_names_after_a_reload(daemon: Daemon, sleeper: Sleeper, blue: Path) -> None:
    def ask() -> list[str]:
        outcomes = []
        with connect(daemon.address) as broker:
            for target, ns_type in (
                ("name:blue", "net"),
                ("name:green", "net"),
                (f"pid:{sleeper.pid}", "net"),
                ("name:blue", "uts"),
            ):
                try:
                    broker.open(target, ns_type).close()
                    outcomes.append("opened")
                except NsbrokerError as error:
                    outcomes.append(type(error).__name__)
        return outcomes

    assert as_user(ALICE, ask) == ["PermissionDenied"] * 4
    daemon.allow("alice", who=[f"user:{ALICE}"], targets=["name:*"], namespaces=["net"])
    assert as_user(ALICE, ask) == ["opened", "NoSuchTarget", "PermissionDenied", "PermissionDenied"]
    assert as_user(BOB, ask) == ["PermissionDenied"] * 4


@pytest.mark.root
def test_a_rule_for_self_lets_each_open_its_own_process_by_that_name_alone(daemon: Daemon) -> None:
    main = daemon.config / "nsbroker.toml"
    main.write_text('[[allow]]\nname = "self"\nwho = "everyone"\ntargets = ["self"]\nnamespaces = ["net"]\n')
    daemon.reload()

    def ask() -> tuple[bool, bool]:
        with connect(daemon.address) as broker:
            broker.open("self", "net").close()
            return broker.explain("self", ["net"]).allowed, broker.explain(f"pid:{os.getpid()}", ["net"]).allowed

    assert as_user(ALICE, ask) == (True, False)


@pytest.mark.root
def test_refusals_are_identical_whether_or_not_the_target_exists(daemon: Daemon, sleeper: Sleeper, blue: Path) -> None:
    (blue.parent / "plain").write_text("")
    targets = [
        {"pid": sleeper.pid}, {"pid": 2**31 - 1}, {"tid": 5, "pid": sleeper.pid}, {"name": "blue"}, {"name": "green"},
        {"name": "plain"},
        {"path": "/run/netns/blue"}, {"path": "/nowhere"}, {"namespace": f"net:[{sleeper.inode('net')}]"}, {"namespace": "net:[1]"},
        {"container": "web"}, {"unit": "a.service"},
    ]  # fmt: skip

    def ask() -> list[dict[str, Any]]:
        return [call(daemon, "io.nsbroker.Broker.Open", {"target": target, "types": ["net"]}) for target in targets]

    assert as_user(ALICE, ask) == [{"error": "org.varlink.service.PermissionDenied", "parameters": {}}] * len(targets)
    (blue.parent / "plain").unlink()
