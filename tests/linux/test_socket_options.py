"""What the kernel knows about a socket and its peer."""

import os
import socket

import pytest

from nsbroker.linux import procfs, socket_options
from nsbroker.linux.features import features
from nsbroker.namespace import Namespace
from tests.world import ALICE, LINUX, as_user


@pytest.mark.root
@pytest.mark.parametrize("count", [0, 3, 256, 257, 60000])
def test_peer_credentials_and_groups_are_those_of_the_connecting_process(count: int) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        path = f"/run/peer-{os.getpid()}"
        listener.bind(path)
        os.chmod(path, 0o666)
        listener.listen()

        def connect() -> int:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(path)
            return os.getpid()

        groups = list(range(5000, 5000 + count))
        pid = as_user(ALICE, connect, groups=groups)
        peer, _ = listener.accept()
        with peer:
            assert socket_options.peer_credentials(peer) == (pid, ALICE, ALICE)
            assert list(socket_options.peer_groups(peer)) == groups
        os.unlink(path)


def test_peer_pidfd_is_of_the_process_that_connected() -> None:
    left, right = socket.socketpair()
    with left, right:
        if not features().peer_pidfd:
            with pytest.raises(OSError, match="Protocol not available"):
                socket_options.peer_pidfd(left)
            return
        fd = socket_options.peer_pidfd(left)
        assert procfs.pidfd_number(fd) == os.getpid()
        assert not os.get_inheritable(fd)
        os.close(fd)


@pytest.mark.root
@pytest.mark.skipif(LINUX < (5, 14), reason="SO_NETNS_COOKIE is of Linux 5.14")
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
def test_the_cookie_is_that_of_the_network_of_the_socket(family: int) -> None:
    with Namespace.create("net") as ns, ns.call(socket.socket, family) as there, socket.socket(family) as here:
        with socket.socket(family, socket.SOCK_DGRAM) as other:
            assert socket_options.netns_cookie(other) == socket_options.netns_cookie(here)
        assert socket_options.netns_cookie(there) != socket_options.netns_cookie(here)


def test_unread_bytes_are_zero_once_everything_was_read() -> None:
    left, right = socket.socketpair()
    with left, right:
        assert socket_options.unread_bytes(left) == 0
        left.send(b"hello")
        assert socket_options.unread_bytes(left) > 0
        right.recv(10)
        assert socket_options.unread_bytes(left) == 0
