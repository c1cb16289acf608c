"""Pairs of sockets that carry descriptors, of every type, and a descriptor to send."""

import os
import socket
from collections.abc import Iterator

import pytest

TYPES = [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET]


@pytest.fixture(params=TYPES, ids=lambda sock_type: sock_type.name)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair(socket.AF_UNIX, request.param)
    with left, right:
        left.settimeout(10)
        right.settimeout(10)
        yield left, right


def null() -> int:
    return os.open(os.devnull, os.O_RDONLY)
