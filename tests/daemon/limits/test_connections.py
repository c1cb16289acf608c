"""The limits on a user's connections, and on descriptors that the user does not read."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nsbroker.client.blocking import connect
from nsbroker.errors import QuotaExceeded
from nsbroker.linux import descriptors
from tests.daemon.test_server import limited, one_connection, open_call, replies
from tests.world import ALICE, as_user, eventually


def test_unread_descriptors_are_counted_over_all_connections_of_a_user(tmp_path: Path) -> None:
    with limited(tmp_path, "unread-descriptors-per-user = 10") as daemon, contextlib.ExitStack() as stack:
        for _ in range(10):
            sock = stack.enter_context(daemon.raw())
            sock.send(open_call(pid=os.getpid()))
        eventually(lambda: len(daemon.records()) == 10, "ten descriptors are on their way")
        broker = stack.enter_context(daemon.connect())
        with pytest.raises(QuotaExceeded, match="unread-descriptors-per-user"):
            broker.open("self", "net")
        assert daemon.records()[-1]["verdict"] == "failed"
        for _, fds in replies(sock, 1):
            descriptors.close_all(fds)
        broker.open("self", "net").close()


@pytest.mark.root
def test_connections_are_limited_per_user_and_in_all_with_a_reserve_for_root(tmp_path: Path) -> None:
    limits = "connections = 8\nconnections-per-user = 3\nconnections-reserved-for-root = 2"

    with limited(tmp_path, limits) as daemon, contextlib.ExitStack() as stack:

        def fill(count: int) -> Callable[[], str]:
            def ask() -> str:
                brokers = [connect(daemon.address) for _ in range(count)]
                try:
                    for broker in brokers:
                        broker.who_am_i()
                except QuotaExceeded as error:
                    return error.limit
                finally:
                    for broker in brokers:
                        broker.close()
                return ""

            return ask

        assert as_user(ALICE, fill(3)) == ""
        assert as_user(ALICE, fill(4)) == "connections-per-user"
        eventually(lambda: one_connection(daemon), "the user's connections are gone")
        mine = [stack.enter_context(daemon.connect()) for _ in range(6)]
        for broker in mine:
            broker.who_am_i()
        assert as_user(ALICE, fill(1)) == "connections"
        last = [stack.enter_context(daemon.connect()) for _ in range(2)]
        for broker in last:
            broker.who_am_i()
        with daemon.connect() as broker, pytest.raises(QuotaExceeded, match="'connections'"):
            broker.who_am_i()
