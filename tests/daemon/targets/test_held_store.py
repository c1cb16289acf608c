"""The store of held namespaces, filled from the fd store of the service manager."""

import os

import pytest

from nsbroker.daemon.systemd.service_manager import FdStore, PassedFd
from nsbroker.daemon.targets.held_store import HeldStore
from nsbroker.model.identity import NamespaceType
from nsbroker.namespace import Namespace

pytestmark = pytest.mark.root


def test_namespaces_from_the_fd_store_are_held_again_and_other_fds_are_dropped() -> None:
    with Namespace.current("net") as net, Namespace.current("uts") as uts:
        copies = [os.dup(ns.fileno()) for ns in (net, uts, uts, net, net)]
        read, write = os.pipe()
        os.close(write)
        held_store = HeldStore(FdStore(), 4)
        problems = held_store.restore(
            [
                PassedFd("held-7-net-a-b", copies[0]),
                PassedFd("held-7-uts-a-b", copies[1]),
                PassedFd("held-8-net-wrong-type", copies[2]),
                PassedFd("held-8-net-pipe", read),
                PassedFd("held-9-net-a-b", copies[3]),
                PassedFd("held-nonsense", copies[4]),
            ]
        )
        (held,) = held_store
        assert (held.name, held.uid, set(held.namespaces)) == ("a-b", 7, {NamespaceType.NET, NamespaceType.UTS})
        assert len(problems) == 4
        held_store.close()
