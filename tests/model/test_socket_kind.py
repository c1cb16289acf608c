"""Kinds of sockets: how they are written, and which sockets they are."""

import socket

import pytest

from nsbroker.errors import InvalidType
from nsbroker.model.socket_kind import SocketFamily, SocketKind, SocketType

pytestmark = pytest.mark.once

AF_BLUETOOTH = 31
"""Python may be built without it."""


@pytest.mark.parametrize("family", SocketFamily)
@pytest.mark.parametrize("kind", SocketType)
def test_a_kind_is_parsed_from_what_it_prints_and_from_its_numbers(family: SocketFamily, kind: SocketType) -> None:
    one = SocketKind(family, kind)
    assert SocketKind.parse(str(one)) == one
    assert SocketKind.of_numbers(family.number, kind.number) == one


@pytest.mark.parametrize("text", ["inet:stream:1", "inet6:dgram:1023"])
def test_a_privileged_port_is_a_part_of_the_kind(text: str) -> None:
    one = SocketKind.parse(text)
    assert str(one) == text
    assert one != SocketKind(one.family, one.type)


@pytest.mark.parametrize(
    "text",
    [
        "", "inet", "inet:", ":stream", "inet:strem", "INET:stream", "inet:stream:", "inet:stream:0", "inet:stream:1024",
        "inet:stream:-1", "inet:stream:٣", "inet:stream:80:80", "unix:stream:80", "packet:raw:80",
    ],
)  # fmt: skip
def test_what_is_no_kind_is_refused_with_the_right_spelling(text: str) -> None:
    with pytest.raises(InvalidType, match="write FAMILY:TYPE"):
        SocketKind.parse(text)


def test_only_privileged_ports_make_another_kind() -> None:
    def bound(port: int) -> str:
        return str(SocketKind.of_numbers(socket.AF_INET, socket.SOCK_STREAM, port))

    assert [bound(port) for port in (0, 1, 1023, 1024, 65535)] == [
        "inet:stream", "inet:stream:1", "inet:stream:1023", "inet:stream", "inet:stream",
    ]  # fmt: skip


@pytest.mark.parametrize(("family", "kind"), [(AF_BLUETOOTH, socket.SOCK_STREAM), (socket.AF_INET, socket.SOCK_RDM)])
def test_numbers_of_sockets_that_the_broker_does_not_create_are_refused(family: int, kind: int) -> None:
    with pytest.raises(InvalidType, match="opens no sockets of family"):
        SocketKind.of_numbers(family, kind)
