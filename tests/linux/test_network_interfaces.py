"""The interfaces in the network of a socket."""

import errno
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbroker.linux import network_interfaces
from nsbroker.namespace import Namespace


@pytest.fixture
def sock(blue: Path) -> Iterator[socket.socket]:
    """A socket that was made in another network than the one of this thread."""
    subprocess.run(["ip", "-n", "blue", "link", "set", "lo", "up"], check=True)
    with Namespace.from_name("blue", "net") as network, network.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sock:
        yield sock


def test_the_loopback_is_the_first(sock: socket.socket) -> None:
    assert network_interfaces.name_of(sock, 1) == "lo"
    assert network_interfaces.index_of(sock, "lo") == 1
    assert network_interfaces.hardware_type(sock, "lo") == 772
    assert network_interfaces.with_addresses(sock) == ["lo"]
    assert network_interfaces.exists(sock, 1)
    assert network_interfaces.names(sock)[0] == "lo"


def test_others_are_those_of_the_socket_alone(sock: socket.socket) -> None:
    added = subprocess.run(["ip", "-n", "blue", "link", "add", "eth7", "type", "veth", "peer", "name", "eth8"], check=False)
    if added.returncode:
        pytest.skip("this kernel has no veth: only the loopback was looked at")
    assert {"lo", "eth7", "eth8"} <= set(network_interfaces.names(sock))
    index = network_interfaces.index_of(sock, "eth7")
    assert network_interfaces.name_of(sock, index) == "eth7"
    assert network_interfaces.hardware_type(sock, "eth7") == 1
    subprocess.run(["ip", "-n", "blue", "address", "add", "10.9.8.7/24", "dev", "eth7"], check=True)
    subprocess.run(["ip", "-n", "blue", "address", "add", "10.9.8.8/24", "dev", "eth7", "label", "eth7:1"], check=True)
    assert network_interfaces.with_addresses(sock) == ["lo", "eth7"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
        assert "eth7" not in network_interfaces.names(here)
    subprocess.run(["ip", "-n", "blue", "link", "delete", "eth7"], check=True)
    assert not network_interfaces.exists(sock, index)


@pytest.mark.parametrize("name", ["eth99", "", "x" * 16, "\udcff"])
def test_a_name_that_no_interface_has_is_an_error(sock: socket.socket, name: str) -> None:
    for function in (network_interfaces.index_of, network_interfaces.hardware_type):
        with pytest.raises(OSError, match="No such device") as failure:
            function(sock, name)
        assert failure.value.errno == errno.ENODEV
