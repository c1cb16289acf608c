"""The files of statistics of a real network, and what is no such file."""

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nsbroker.linux import proc_net
from nsbroker.linux.proc_net import LinkCounters
from nsbroker.namespace import Namespace


@pytest.fixture
def network() -> Iterator[Namespace]:
    """A new network whose loopback is up."""
    with Namespace.create("net", up=True) as ns:
        yield ns


def read(network: Namespace, name: str) -> bytes:
    return network.call(lambda: Path(f"/proc/thread-self/net/{name}").read_bytes())


def send(network: Namespace, size: int) -> None:
    """Send a datagram of this size over the loopback."""

    def work() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            sock.sendto(bytes(size), sock.getsockname())

    network.call(work)


def loopback(network: Namespace) -> LinkCounters:
    [link] = [one for one in proc_net.links(read(network, "dev")) if one.name == "lo"]
    assert link.received == link.sent
    return link.sent


def test_links_count_what_was_sent(network: Namespace) -> None:
    before = loopback(network)
    send(network, 1000)
    after = loopback(network)
    # There are 28 bytes of headers.
    assert (after.bytes - before.bytes, after.packets - before.packets) == (1028, 1)
    assert (after.errors, after.drops) == (0, 0)


def test_a_name_that_is_no_utf_8_is_escaped(network: Namespace) -> None:
    for change in (["down"], ["name", b"l\xff"]):
        command = ["ip", "link", "set", "lo", *change]
        network.call(lambda command=command: subprocess.run(command, check=True))
    assert "l\\xff" in [link.name for link in proc_net.links(read(network, "dev"))]


def test_counters_are_those_of_their_group(network: Namespace) -> None:
    def in_and_out() -> list[int]:
        return proc_net.counters(read(network, "snmp"), "Udp", ("InDatagrams", "OutDatagrams"))

    before = in_and_out()
    send(network, 10)
    send(network, 10)
    # Nobody has received them.
    assert in_and_out() == [before[0], before[1] + 2]
    assert proc_net.counters(read(network, "netstat"), "TcpExt", ("ListenOverflows", "ListenDrops")) == [0, 0]


def test_sockets_are_counted_by_protocol(network: Namespace) -> None:
    with network.call(socket.create_server, ("127.0.0.1", 0)), network.call(socket.socket, socket.AF_INET6, socket.SOCK_DGRAM):
        found = proc_net.sockets(read(network, "sockstat"))
        assert (found["TCP"]["inuse"], found["UDP"]["inuse"]) == (1, 0)
        assert found["sockets"]["used"] >= 2
        assert proc_net.sockets(read(network, "sockstat6"))["TCP6"]["inuse"] == 0


def test_an_open_file_is_read_from_its_beginning_and_shows_the_numbers_of_the_moment(network: Namespace) -> None:
    with network.call(open, "/proc/thread-self/net/dev", "rb", 0) as file:
        first = proc_net.links(proc_net.read(file.fileno()))
        send(network, 10)
        second = proc_net.links(proc_net.read(file.fileno()))
    assert [link.name for link in first] == [link.name for link in second]
    assert first != second


def test_what_never_ends_is_not_read_to_its_end() -> None:
    fd = os.open("/dev/zero", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with pytest.raises(ValueError, match="more than 1048576 bytes"):
            proc_net.read(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (proc_net.links, b"a\nb\nno name here\n"),
        (proc_net.links, b"a\nb\nlo: 1 2 3\n"),
        (proc_net.links, b"a\nb\nlo: " + b"x " * 16),
        (lambda text: proc_net.counters(text, "Tcp", ("InSegs",)), b""),
        (lambda text: proc_net.counters(text, "Tcp", ("InSegs",)), b"Tcp: InSegs\nTcp:\n"),
        (lambda text: proc_net.counters(text, "Tcp", ("InSegs",)), b"Tcp: Other\nTcp: 1\n"),
        (proc_net.sockets, b"TCP: inuse\n"),
        (proc_net.sockets, b"TCP: inuse many\n"),
        (proc_net.sockets, b"\xff"),
    ],
)
def test_what_is_no_such_file_is_an_error_that_callers_expect(parse: Callable[[bytes], object], text: bytes) -> None:
    with pytest.raises((ValueError, LookupError)):
        parse(text)
