"""Interfaces in real networks."""

import contextlib
import errno
import fcntl
import os
import socket
import sys
from collections.abc import Iterator

import pytest

from nsbroker.linux import rtnetlink
from nsbroker.linux.rtnetlink import InterfaceError
from nsbroker.namespace import Namespace

_SIOCGIFFLAGS = 0x8913
_IFF_UP = 0x1


class Network:
    """A new network, and a netlink socket in it."""

    def __init__(self) -> None:
        self.ns = Namespace.create("net")
        self.sock = self.ns.call(rtnetlink.connect)

    def names(self) -> list[str]:
        """The names of the interfaces there, but for those that some kernels put into every network."""
        found = [name for _, name in self.ns.call(socket.if_nameindex)]
        return [name for name in found if name in ("lo", "eth0", "lab0", "other")]

    def is_up(self, name: str) -> bool:
        """Whether an interface is up, as the kernel shows it."""
        with self.ns.call(socket.socket, socket.AF_UNIX) as sock:
            request = name.encode().ljust(16, b"\0") + bytes(24)
            flags = fcntl.ioctl(sock, _SIOCGIFFLAGS, request)
        return bool(int.from_bytes(flags[16:18], sys.byteorder) & _IFF_UP)

    def close(self) -> None:
        self.sock.close()
        self.ns.close()


@pytest.fixture
def networks() -> Iterator[tuple[Network, Network]]:
    with contextlib.ExitStack() as stack:
        pair = Network(), Network()
        for network in pair:
            stack.callback(network.close)
        yield pair


@contextlib.contextmanager
def fails(number: int) -> Iterator[pytest.ExceptionInfo[InterfaceError]]:
    with pytest.raises(InterfaceError) as raised:
        yield raised
    assert raised.value.errno == number


def test_a_veth_has_an_end_in_each_network_and_both_are_set_up(networks: tuple[Network, Network]) -> None:
    near, far = networks
    rtnetlink.add_veth(near.sock, "eth0", far.ns.fileno(), "lab0")
    assert (near.names(), far.names()) == (["lo", "eth0"], ["lo", "lab0"])
    assert not near.is_up("eth0")
    assert not far.is_up("lab0")
    rtnetlink.set_up(near.sock, "eth0")
    rtnetlink.set_up(far.sock, "lab0")
    assert near.is_up("eth0")
    assert far.is_up("lab0")
    rtnetlink.set_up(far.sock, "lo")
    assert far.is_up("lo")
    assert not near.is_up("lo")


def test_both_ends_can_be_in_one_network(networks: tuple[Network, Network]) -> None:
    near, _ = networks
    rtnetlink.add_veth(near.sock, "eth0", near.ns.fileno(), "other")
    assert sorted(near.names()) == ["eth0", "lo", "other"]
    with fails(errno.EEXIST):
        rtnetlink.add_veth(near.sock, "lab0", near.ns.fileno(), "lab0")
    assert "lab0" not in near.names()


def test_deleting_one_end_deletes_both(networks: tuple[Network, Network]) -> None:
    near, far = networks
    rtnetlink.add_veth(near.sock, "eth0", far.ns.fileno(), "lab0")
    assert rtnetlink.exists(far.sock, "lab0")
    assert not rtnetlink.exists(far.sock, "eth0")
    rtnetlink.delete(near.sock, "eth0")
    assert (near.names(), far.names()) == (["lo"], ["lo"])
    assert not rtnetlink.exists(far.sock, "lab0")
    with fails(errno.ENODEV):
        rtnetlink.delete(near.sock, "eth0")


def test_a_name_that_is_taken_at_either_end_leaves_nothing_behind(networks: tuple[Network, Network]) -> None:
    near, far = networks
    rtnetlink.add_veth(near.sock, "eth0", far.ns.fileno(), "lab0")
    for names in (("eth0", "other"), ("other", "lab0")):
        with fails(errno.EEXIST):
            rtnetlink.add_veth(near.sock, names[0], far.ns.fileno(), names[1])
    assert (near.names(), far.names()) == (["lo", "eth0"], ["lo", "lab0"])


def test_what_the_kernel_refuses_comes_with_its_explanation(networks: tuple[Network, Network]) -> None:
    near, _ = networks
    with fails(errno.ENODEV):
        rtnetlink.set_up(near.sock, "missing")
    with pytest.raises(InterfaceError) as raised:
        rtnetlink.set_up(near.sock, "x" * 40)
    assert raised.value.text
    assert raised.value.text.isprintable()
    # The socket can still be used.
    rtnetlink.set_up(near.sock, "lo")


def test_a_descriptor_that_is_no_network_is_refused(networks: tuple[Network, Network]) -> None:
    near, _ = networks
    null = os.open("/dev/null", os.O_RDONLY)
    try:
        with fails(errno.EINVAL):
            rtnetlink.add_veth(near.sock, "eth0", null, "lab0")
    finally:
        os.close(null)
    assert near.names() == ["lo"]


def test_a_socket_is_close_on_exec_and_never_waits_for_ever(networks: tuple[Network, Network]) -> None:
    near, _ = networks
    assert not near.sock.get_inheritable()
    assert near.sock.gettimeout()


def test_another_process_in_the_network_cannot_send_an_answer(networks: tuple[Network, Network]) -> None:
    """The sender has every right over the network, as root of a container has."""
    network = networks[0]
    assert rtnetlink.exists(network.sock, "lo")
    port, _ = network.sock.getsockname()
    kind = (socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    with network.ns.call(socket.socket, *kind) as sender, pytest.raises(ConnectionRefusedError):
        sender.sendto(b"a false answer", (port, 0))
    assert rtnetlink.exists(network.sock, "lo")
