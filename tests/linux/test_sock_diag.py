"""The states of TCP sockets in real networks."""

import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbroker.linux import sock_diag
from nsbroker.namespace import Namespace
from tests.world import eventually


@pytest.fixture
def network() -> Iterator[Namespace]:
    """A new network whose loopback is up."""
    with Namespace.create("net", up=True) as ns:
        yield ns


def open_socket() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, sock_diag.PROTOCOL)


def states(network: Namespace) -> dict[str, int]:
    """Return how many sockets are in each state, without those of which there are none."""
    with network.call(open_socket) as sock:
        found = sock_diag.tcp_states(sock)
    assert tuple(found) == sock_diag.STATES
    return {state: number for state, number in found.items() if number}


def shown(network: Namespace) -> dict[str, int]:
    """Return the same, from the files tcp and tcp6."""

    def read(name: str) -> list[str]:
        return Path(f"/proc/thread-self/net/{name}").read_text().splitlines()[1:]

    lines = [*network.call(read, "tcp"), *network.call(read, "tcp6")]
    return dict(Counter(sock_diag.STATES[int(line.split()[3], 16) - 1] for line in lines))


def test_sockets_of_both_families_are_counted_by_their_states(network: Namespace) -> None:
    assert states(network) == {}
    with network.call(socket.create_server, ("127.0.0.1", 0)) as listener:
        assert states(network) == {"listen": 1}
        with network.call(socket.create_connection, listener.getsockname()) as client, listener.accept()[0] as server:
            assert states(network) == {"listen": 1, "established": 2} == shown(network)
            client.shutdown(socket.SHUT_WR)
            eventually(
                lambda: states(network) == {"listen": 1, "fin_wait2": 1, "close_wait": 1}, "one direction of the connection ends"
            )
            assert shown(network) == states(network)
            server.close()
            eventually(lambda: states(network) == {"listen": 1, "time_wait": 1}, "the client waits")
            assert shown(network) == states(network)
        with network.call(lambda: socket.create_server(("::1", 0), family=socket.AF_INET6)):
            assert states(network)["listen"] == 2


def test_many_sockets_take_several_messages(network: Namespace) -> None:
    listeners = [network.call(socket.create_server, ("127.0.0.1", 0)) for _ in range(600)]
    assert states(network) == {"listen": 600}
    for listener in listeners:
        listener.close()


def test_an_answer_that_nobody_waited_for_is_skipped(network: Namespace) -> None:
    with network.call(open_socket) as sock, network.call(socket.create_server, ("127.0.0.1", 0)):
        # The same request.
        sock.send(struct.pack("=IHHII4x48xII", 16 + 60, 18, 0x301, 0, 0, 0xFFF, 0))
        assert sock_diag.tcp_states(sock)["listen"] == 1
        assert sock_diag.tcp_states(sock)["listen"] == 1


def test_an_error_of_the_kernel_is_an_os_error(network: Namespace) -> None:
    # Generic netlink has no family with the number of the request.
    with network.call(socket.socket, socket.AF_NETLINK, socket.SOCK_DGRAM, 16) as sock, pytest.raises(FileNotFoundError):
        sock_diag.tcp_states(sock)


@pytest.mark.parametrize("answer", [b"short", struct.pack("=IHHII", 4, 3, 0, 1, 0), struct.pack("=IHHII", 99, 3, 0, 1, 0)])
def test_an_answer_that_makes_no_sense_is_an_error(answer: bytes) -> None:
    # No kernel gives such an answer: a socket of the same kind stands for it.
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, right:
        kernel = threading.Thread(target=lambda: right.recv(100) and right.send(answer))
        kernel.start()
        with pytest.raises(ValueError, match="the kernel's answer about TCP sockets"):
            sock_diag.tcp_states(left)
        kernel.join()
