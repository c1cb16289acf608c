"""The first socket of each kind is made on a thread, later ones on the event loop's own, which is then as it was."""

import contextlib
import errno
import os
import resource
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import nsbroker
from nsbroker.client.blocking import connect
from nsbroker.daemon.methods.socket_maker import SocketMaker, WantedSocket
from nsbroker.daemon.peer import Maker
from nsbroker.daemon.targets.pinned import PinnedNamespace
from nsbroker.errors import SocketFailed
from nsbroker.linux.credentials import Credentials
from nsbroker.linux.socket_options import network_namespace
from nsbroker.model.socket_kind import SocketFamily, SocketKind, SocketType
from nsbroker.namespace import Namespace
from tests.world import NOBODY, Daemon, Sleeper, eventually

pytestmark = pytest.mark.root

STREAM = SocketKind.bound(SocketFamily.INET, SocketType.STREAM, 0)
RAW = SocketKind.bound(SocketFamily.INET, SocketType.RAW, 0)
_LIMIT = 256
USERS = [Maker(Credentials(NOBODY, NOBODY), ()), Maker(Credentials(0, 0), ()), Maker(Credentials(NOBODY, NOBODY), (4001, 4002))]


def wanted(kind: SocketKind, protocol: int = 0, address: tuple[str, int] | None = None, mark: int | None = None) -> WantedSocket:
    return WantedSocket(kind, protocol, address, mark)


def network_of(sock: socket.socket) -> int:
    fd = network_namespace(sock)
    try:
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)


def state_of_thread() -> tuple[int, list[str]]:
    """Return the network of the calling thread, its uids, groups, and capabilities."""
    keys = ("Uid:", "Gid:", "Groups:", "Cap")
    lines = Path("/proc/thread-self/status").read_text().splitlines()
    return os.stat("/proc/thread-self/ns/net").st_ino, [line for line in lines if line.startswith(keys)]


@pytest.fixture
def net() -> Iterator[Namespace]:
    with Namespace.create("net") as ns:
        yield ns


def pinned(ns: Namespace) -> PinnedNamespace:
    return PinnedNamespace(ns, "name:web", Namespace.close)


async def test_the_first_socket_of_a_kind_and_a_marked_one_take_time(net: Namespace) -> None:
    maker = SocketMaker()
    assert maker.takes_time(USERS[0], wanted(STREAM))
    (await maker.make(pinned(net), net, USERS[0], wanted(STREAM))).close()
    assert not maker.takes_time(USERS[0], wanted(STREAM))
    assert maker.takes_time(USERS[0], wanted(STREAM, protocol=socket.IPPROTO_MPTCP))
    assert maker.takes_time(USERS[0], wanted(STREAM, mark=1))
    assert maker.takes_time(USERS[0], wanted(RAW, protocol=socket.IPPROTO_ICMP))
    assert maker.takes_time(USERS[0]._replace(groups=range(5000, 10000)), wanted(STREAM))


async def test_a_kind_that_could_not_be_made_still_takes_time(net: Namespace) -> None:
    maker = SocketMaker()
    with pytest.raises(SocketFailed):
        await maker.make(pinned(net), net, USERS[0], wanted(STREAM, protocol=1234))
    assert maker.takes_time(USERS[0], wanted(STREAM, protocol=1234))


@pytest.mark.parametrize("user", USERS, ids=["nobody", "root", "nobody with groups"])
@pytest.mark.parametrize("kind", [STREAM, RAW], ids=str)
def test_a_socket_belongs_to_the_user_and_the_thread_is_then_as_before(net: Namespace, user: Maker, kind: SocketKind) -> None:
    maker, before = SocketMaker(), state_of_thread()
    protocol = socket.IPPROTO_ICMP if kind is RAW else 0
    for _ in range(3):
        with maker.make_at_once(pinned(net), net, user, wanted(kind, protocol)) as sock:
            assert network_of(sock) == net.inode
            assert os.fstat(sock.fileno()).st_uid == user.credentials.uid
        assert state_of_thread() == before


def test_groups_that_the_user_lacks_are_dropped_only_inside(net: Namespace) -> None:
    """Only certain groups may have ping sockets (net.ipv4.ping_group_range in icmp(7))."""
    own = os.getgroups()
    os.setgroups([4077])
    try:
        maker, before = SocketMaker(), state_of_thread()
        ping = wanted(SocketKind.bound(SocketFamily.INET, SocketType.DGRAM, 0), socket.IPPROTO_ICMP)
        in_place = Path("/proc/sys/net/ipv4/ping_group_range")
        net.call(in_place.write_text, "4077 4077")
        with pytest.raises(SocketFailed):
            maker.make_at_once(pinned(net), net, USERS[0], ping)
        assert state_of_thread() == before
        maker.make_at_once(pinned(net), net, USERS[0]._replace(groups=(4077,)), ping).close()
        assert state_of_thread() == before
    finally:
        os.setgroups(own)


@pytest.mark.parametrize(
    "bad", [wanted(STREAM, protocol=1234), wanted(STREAM, address=("127.0.0.1", 80))], ids=["protocol", "port"]
)
def test_a_socket_that_cannot_be_made_leaves_the_thread_as_before(net: Namespace, bad: WantedSocket) -> None:
    maker, before = SocketMaker(), state_of_thread()
    with pytest.raises(SocketFailed):
        maker.make_at_once(pinned(net), net, USERS[0], bad)
    assert state_of_thread() == before


@pytest.mark.parametrize("room", [0, 1])
def test_without_room_for_another_descriptor_the_thread_is_as_before(net: Namespace, room: int) -> None:
    """A visit needs a descriptor of the own namespace, and then one of the socket."""
    maker, before = SocketMaker(), state_of_thread()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    target, filled = pinned(net), list[int]()
    resource.setrlimit(resource.RLIMIT_NOFILE, (_LIMIT, hard))
    try:
        with contextlib.suppress(OSError):
            filled.extend(os.dup(spare) for _ in range(_LIMIT))
        for _ in range(room):
            os.close(filled.pop())
        with pytest.raises((OSError, SocketFailed), match=os.strerror(errno.EMFILE)):
            maker.make_at_once(target, net, USERS[0], wanted(STREAM)).close()
    finally:
        for fd in [*filled, spare]:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert state_of_thread() == before


def test_reloads_and_the_end_of_the_broker_in_the_midst_of_sockets_harm_none(daemon: Daemon, sleeper: Sleeper) -> None:
    """Signals arrive while the event loop's thread is inside.  Until the broker has ended, each socket is in the right network."""
    daemon.allow("sockets", who=f"uid:{os.getuid()}", targets=["pid:*"], sockets=["*"])
    made, networks = [0, 0, 0], set[int]()

    def open_sockets(number: int) -> None:
        with connect(daemon.address) as broker:
            try:
                while True:
                    with broker.socket(f"pid:{sleeper.pid}", socket.AF_INET, socket.SOCK_STREAM) as sock:
                        networks.add(network_of(sock))
                    made[number] += 1
            except (nsbroker.NsbrokerError, OSError):
                pass  # The broker has ended.

    threads = [threading.Thread(target=open_sockets, args=(number,)) for number in range(len(made))]
    for thread in threads:
        thread.start()
    for _ in range(30):
        daemon.reload()
    eventually(lambda: all(count > 10 for count in made), "each has made some")
    assert daemon.stop() == 0
    for thread in threads:
        thread.join()
    assert networks == {sleeper.inode("net")}
