"""The address of the broker: where it comes from, and which ones are refused."""

from pathlib import Path

import pytest

from nsbroker.errors import InvalidAddress
from nsbroker.protocol import address
from nsbroker.protocol.address import socket_path

pytestmark = pytest.mark.once


def test_a_given_address_comes_before_that_of_the_environment_and_that_before_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(address.VARIABLE, "unix:/environment")
    assert socket_path("unix:/given") == Path("/given")
    assert socket_path() == Path("/environment")
    monkeypatch.setenv(address.VARIABLE, "")
    assert socket_path() == Path(address.DEFAULT.removeprefix("unix:"))
    monkeypatch.delenv(address.VARIABLE)
    assert socket_path() == Path("/run/nsbroker/io.nsbroker.Broker")


@pytest.mark.parametrize(
    "text", ["/run/x", "unix:", "unix:x", "unix:@x", "unix:\0x", "unix:/a\0b", "tcp:/x", "UNIX:/x", "unix:/\ud800"]
)
def test_what_is_no_absolute_path_of_a_unix_socket_is_refused(text: str) -> None:
    with pytest.raises(InvalidAddress, match="write unix:/ABSOLUTE/PATH"):
        socket_path(text)


def test_a_path_has_at_most_107_bytes_however_many_characters_these_are() -> None:
    longest = "/" + "é" * 53
    assert socket_path(f"unix:{longest}") == Path(longest)
    with pytest.raises(InvalidAddress, match="at most 107 bytes"):
        socket_path(f"unix:{longest}x")


def test_a_wrong_address_in_the_environment_is_named_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(address.VARIABLE, "relative")
    with pytest.raises(InvalidAddress, match="'relative' is not the address of a broker"):
        socket_path()
