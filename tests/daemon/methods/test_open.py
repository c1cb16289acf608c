"""Open: the namespaces that it hands over, and that it leaves nothing behind in the daemon."""

import os
from typing import Any

import pytest

from nsbroker.errors import NsbrokerError
from nsbroker.model.identity import NamespaceType
from tests.world import Daemon, Sleeper


def test_open_gives_the_very_namespaces_of_the_process(daemon: Daemon, sleeper: Sleeper) -> None:
    with daemon.connect() as broker:
        namespaces = broker.open_all(f"pid:{sleeper.pid}")
        inodes = {ns_type: ns.inode for ns_type, ns in namespaces.items()}
        assert inodes == {ns_type: sleeper.inode(ns_type) for ns_type in NamespaceType}
        for ns in namespaces.values():
            assert not os.get_inheritable(ns.fileno())
            ns.close()


def test_ten_thousand_opens_leave_the_daemon_as_it_was(daemon: Daemon, sleeper: Sleeper) -> None:
    def thousand(broker: Any) -> None:
        for number in range(1000):
            if number % 10 == 9:
                with pytest.raises(NsbrokerError):
                    broker.open(f"pid:{2**31 - 1}" if number % 20 == 9 else f"name:missing{number}", "net")
            else:
                broker.open(f"pid:{sleeper.pid}", "net").close()

    with daemon.connect() as broker:
        thousand(broker)
        before, memory = daemon.snapshot(), daemon.memory()
        for _ in range(10):
            thousand(broker)
        daemon.settles_at(before)
        assert daemon.memory() - memory < 512 * 1024
