"""Where the exporter listens."""

import argparse
import socket
from pathlib import Path

import pytest

from nsbroker.cli.exporter.listen_address import ListenAddress, format_url
from nsbroker.errors import CommandFailed


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        ("10753", "127.0.0.1", 10753),
        ("0", "127.0.0.1", 0),
        ("[::1]:9100", "::1", 9100),
        ("0.0.0.0:9100", "0.0.0.0", 9100),
        ("localhost:1", "localhost", 1),
    ],
)
def test_an_address_is_a_loopback_one_unless_another_one_is_written(text: str, address: str, port: int) -> None:
    assert ListenAddress.parse(text) == (address, port, None)


@pytest.mark.parametrize(
    "text", ["", "x", "127.0.0.1", "::1:80", "1:2:3", "65536", "-1", "http://127.0.0.1:80", "unix:", "unix:a/b"]
)
def test_what_is_no_address_is_named(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"is not \[ADDRESS:\]PORT or unix:PATH"):
        ListenAddress.parse(text)


def test_all_addresses_must_be_written() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"write 0\.0\.0\.0:9100 if that is what you want"):
        ListenAddress.parse(":9100")


def test_a_port_that_is_in_use_and_an_address_of_nobody_are_failures() -> None:
    with ListenAddress.parse("0").listen() as sock:
        port = sock.getsockname()[1]
        assert format_url(sock) == f"http://127.0.0.1:{port}/metrics"
        with pytest.raises(CommandFailed, match=f"cannot listen on 127.0.0.1 port {port}: Address already in use"):
            ListenAddress.parse(str(port)).listen().__enter__()
    with pytest.raises(CommandFailed, match=r"cannot listen on 192\.0\.2\.1 port 80"):
        ListenAddress.parse("192.0.2.1:80").listen().__enter__()


def test_an_ipv6_address_is_written_in_brackets() -> None:
    with ListenAddress.parse("[::1]:0").listen() as sock:
        assert format_url(sock) == f"http://[::1]:{sock.getsockname()[1]}/metrics"


def test_a_unix_socket_is_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with ListenAddress.parse(f"unix:{path}").listen() as sock:
        assert format_url(sock) == f"unix:{path}"
        assert path.is_socket()
    assert not path.exists()


def test_a_socket_that_took_the_place_of_its_own_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as later:
        with ListenAddress.parse(f"unix:{path}").listen():
            path.unlink()
            later.bind(str(path))
        assert path.is_socket()


def test_a_unix_socket_on_which_nobody_listens_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    listen = ListenAddress.parse(f"unix:{path}")
    with listen.listen():
        with pytest.raises(CommandFailed, match="another program listens there"):
            listen.listen().__enter__()
        assert path.is_socket()
    path.write_text("precious")
    with pytest.raises(CommandFailed, match="a file that is not a socket is there"):
        listen.listen().__enter__()
    assert path.read_text() == "precious"
    with pytest.raises(CommandFailed, match="cannot listen on /nowhere/socket: No such file or directory"):
        ListenAddress.parse("unix:/nowhere/socket").listen().__enter__()
