"""What only the blocking client does: threads share a connection, and a call ends after a timeout."""

import threading

import pytest

import nsbroker
import nsbroker.client.asyncio
import nsbroker.client.trio
from nsbroker.errors import ConnectionLost, Timeout
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
