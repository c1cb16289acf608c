"""What only the blocking client does: threads share a connection, and a call ends after a timeout."""

import os
import threading
from typing import Any

import pytest

import nsbroker
import nsbroker.client.asyncio
import nsbroker.client.trio
from nsbroker.errors import ConnectionLost, InvalidTarget, TargetChanged, Timeout
from nsbroker.model.identity import Expectation
from nsbroker.model.target import Target
from tests.world import Daemon, Sleeper


def test_threads_share_a_blocking_connection(daemon: Daemon, sleeper: Sleeper) -> None:
    wrong: list[int] = []

    def ask() -> None:
        for _ in range(50):
            with broker.open(f"pid:{sleeper.pid}", "net") as ns:
                if ns.inode != sleeper.inode("net"):
                    wrong.append(ns.inode)

    with daemon.connect() as broker:
        threads = [threading.Thread(target=ask) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_a_blocking_call_gives_up_after_its_timeout(silent: str) -> None:
    with nsbroker.connect(silent, timeout=0.05) as broker:
        for _ in range(2):
            with pytest.raises(Timeout, match=r"ask who I am: .* within 0.05 s.*systemctl status nsbroker"):
                broker.who_am_i()
    with pytest.raises(ConnectionLost, match="connect again"):
        broker.who_am_i()


def test_targets_that_are_opened_again_are_remembered_with_what_was_asked(daemon: Daemon, sleeper: Sleeper) -> None:
    wrong: Any = []

    def ask(types: list[str] | None) -> dict[str, int]:
        opened = broker.open_all(f"pid:{sleeper.pid}", types)
        try:
            return {str(ns_type): ns.inode for ns_type, ns in opened.items()}
        finally:
            for ns in opened.values():
                ns.close()

    with daemon.connect() as broker:
        everything = ask(None)
        for _ in range(2):
            assert ask(["net"]) == {"net": everything["net"]}
            types = ["net", "uts"]
            assert ask(types) == {name: everything[name] for name in types}
            types.remove("uts")
            assert ask(types) == {"net": everything["net"]}
            assert ask(None) == everything
            with pytest.raises(TargetChanged):
                broker.open_all(f"pid:{sleeper.pid}", ["net"], expect=Expectation(start_time=1))
        with pytest.raises(InvalidTarget, match="is no target"):
            broker.open(wrong, "net")


def test_the_number_of_a_pidfd_is_not_remembered(daemon: Daemon, sleeper: Sleeper) -> None:
    with daemon.connect() as broker, Sleeper("--net") as other:
        target = Target.pidfd(os.pidfd_open(sleeper.pid))
        fd = int(target.value)
        try:
            broker.open(target, "net").close()
            os.close(fd)
            with pytest.raises(InvalidTarget, match=f"the pidfd {fd} is not open"):
                broker.open(target, "net")
        finally:
            again = os.pidfd_open(other.pid)
            if again != fd:
                os.dup2(again, fd, inheritable=False)
                os.close(again)
        with broker.open(target, "net") as ns:
            assert ns.inode == other.inode("net")
        os.close(fd)
