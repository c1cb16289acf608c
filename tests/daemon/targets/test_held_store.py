"""The store of held namespaces, filled from the fd store of the service manager."""

import fcntl
import os
from collections.abc import Iterator

import pytest

from nsbroker.daemon.systemd.service_manager import FdStore, PassedFd
from nsbroker.daemon.targets import held_store as held_store_module
from nsbroker.daemon.targets.held_store import HeldStore
from nsbroker.errors import QuotaExceeded, TimedOut
from nsbroker.linux.closing import Closer
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


@pytest.fixture
def held_store() -> Iterator[HeldStore]:
    held_store = HeldStore(FdStore(), 4)
    yield held_store
    held_store.close()


async def test_what_is_held_twice_is_two_open_files(held_store: HeldStore) -> None:
    """systemd keeps each open file only once, and releasing the one name would remove what the other one holds."""
    closer = Closer()
    with Namespace.current("net") as net:
        await held_store.hold("lab", 7, [net], closer, 7)
        first = held_store.find("lab")
        assert first is not None
        await held_store.hold("lab-2", 7, first.namespaces.values(), closer, 7)
        handles = [net, *(ns for held in held_store for ns in held.namespaces.values())]
        assert handles == [net] * 3
        for number, ns in enumerate(handles):
            # The flags belong to the open file.
            fcntl.fcntl(ns, fcntl.F_SETFL, os.O_NONBLOCK)
            flags = [bool(fcntl.fcntl(other, fcntl.F_GETFL) & os.O_NONBLOCK) for other in handles]
            assert flags == [other <= number for other in range(3)]
            assert not os.get_inheritable(ns.fileno())


async def test_a_hold_that_fails_leaves_what_is_held_under_its_name_by_then(
    held_store: HeldStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the service manager is asked to confirm, the name can be released and taken by somebody else."""
    closer = Closer()

    async def settle() -> None:
        entry = held_store.find("lab")
        assert entry is not None
        held_store.release(entry, closer)
        monkeypatch.undo()
        await held_store.hold("lab", 8, [uts], closer, 8)
        raise TimedOut("the service manager did not confirm it")

    monkeypatch.setattr(held_store._store, "settle", settle)
    with Namespace.current("net") as net, Namespace.current("uts") as uts:
        with pytest.raises(TimedOut):
            await held_store.hold("lab", 7, [net], closer, 7)
        (held,) = held_store
        assert (held.uid, held.namespaces) == (8, {NamespaceType.UTS: uts})


async def test_a_hold_that_fails_after_its_name_was_released_raises_its_own_error(
    held_store: HeldStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    closer = Closer()

    async def settle() -> None:
        entry = held_store.find("lab")
        assert entry is not None
        assert held_store.release(entry, closer)
        assert not held_store.release(entry, closer)
        raise TimedOut("the service manager did not confirm it")

    monkeypatch.setattr(held_store._store, "settle", settle)
    with Namespace.current("net") as net, pytest.raises(TimedOut):
        await held_store.hold("lab", 7, [net], closer, 7)
    assert len(held_store) == 0


async def test_what_was_held_before_a_restart_counts_for_the_user_of_its_uid(
    held_store: HeldStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_store_module, "user_of", lambda uid: 7 if uid >= 100_000 else uid)
    closer = Closer()
    with Namespace.current("net") as net, Namespace.current("uts") as uts:
        kept = [PassedFd("held-100000-net-a", os.dup(net.fileno())), PassedFd("held-7-uts-b", os.dup(uts.fileno()))]
        assert held_store.restore(kept) == []
        await held_store.hold("c", 100_001, [net, uts], closer, 7)
        for uid in (7, 100_002):
            with pytest.raises(QuotaExceeded, match="held-per-user"):
                await held_store.hold("d", uid, [net], closer, 7)
        await held_store.hold("d", 8, [net], closer, 8)
    assert [(held.name, held.uid, held.user) for held in held_store] == [
        ("a", 100_000, 7),
        ("b", 7, 7),
        ("c", 100_001, 7),
        ("d", 8, 8),
    ]
