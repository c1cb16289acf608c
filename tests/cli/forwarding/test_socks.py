"""What SOCKS5 clients say, byte by byte.  tests/cli/commands/test_forward_socks.py has real clients."""

import asyncio
import errno
import socket
from collections.abc import Callable

import pytest

from nsbroker.cli.forwarding import socks
from nsbroker.cli.forwarding.socks import SocksError
from nsbroker.cli.forwarding.spec import End
from nsbroker.errors import LookupFailed, PermissionDenied
from tests.world import PATIENCE

GREETING = b"\5\1\0"
ACCEPTED = b"\5\0"
IPV4 = b"\5\1\0\1\x0a\0\0\7\0\x50"


def talk(said: bytes, connect: Callable[[End], socket.socket] | None = None) -> tuple[End, bytes]:
    """Let a client say something and hang up.  Returns where it was connected, and the replies that it got."""

    async def run() -> tuple[End, bytes]:
        async def to(end: End) -> socket.socket:
            if connect is None:
                return socket.socket(socket.AF_INET6 if ":" in end.host else socket.AF_INET)
            return connect(end)

        client, served = socket.socketpair()
        with client, served:
            for sock in (client, served):
                sock.setblocking(False)
            client.sendall(said)
            client.shutdown(socket.SHUT_WR)
            try:
                sock, end = await asyncio.wait_for(socks.negotiate(served, to), PATIENCE)
                sock.close()
            except SocksError as error:
                # The replies are part of what went wrong.
                error.args = (*error.args, client.recv(1000) if _has_data(client) else b"")
                raise
            return end, client.recv(1000)

    return asyncio.run(run())


def _has_data(client: socket.socket) -> bool:
    try:
        return bool(client.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


@pytest.mark.parametrize(
    ("request_", "end", "reply"),
    [
        (IPV4, End("10.0.0.7", 80), b"\5\0\0\1\0\0\0\0\0\0"),
        (b"\5\1\0\4" + bytes(15) + b"\1\0\x50", End("::1", 80), b"\5\0\0\4" + bytes(18)),
        (b"\5\1\0\3\2db\x15\x38", End("db", 5432), b"\5\0\0\1\0\0\0\0\0\0"),
        (b"\5\1\0\3\xff" + b"x" * 255 + b"\0\1", End("x" * 255, 1), b"\5\0\0\1\0\0\0\0\0\0"),
    ],
)
def test_it_connects_to_each_kind_of_address(request_: bytes, end: End, reply: bytes) -> None:
    assert talk(GREETING + request_) == (end, ACCEPTED + reply)
    # A client may offer other methods as well.
    assert talk(b"\5\3\2\0\1" + request_) == (end, ACCEPTED + reply)


@pytest.mark.parametrize(
    ("said", "words", "replies"),
    [
        (b"", "hung up", b""),
        (b"\5", "hung up", b""),
        (b"GET / HTTP/1.1\r\n\r\n", "first byte is 71", b""),
        (b"\4\1\0\x50\x0a\0\0\7\0", "first byte is 4", b""),
        (b"\5\1\2", "authentication", b"\5\xff"),
        (b"\5\0", "authentication", b"\5\xff"),
        (GREETING, "hung up", ACCEPTED),
        (GREETING + b"\4\1\0\1", "begins with 4", ACCEPTED),
        (GREETING + IPV4[:-1], "hung up", ACCEPTED),
        (GREETING + b"\5\1\0\2", "kind of address", ACCEPTED + b"\5\x08\0\1" + bytes(6)),
        (GREETING + b"\5\2" + IPV4[2:], "command 2", ACCEPTED + b"\5\x07\0\1" + bytes(6)),
        (GREETING + b"\5\3" + IPV4[2:], "command 3", ACCEPTED + b"\5\x07\0\1" + bytes(6)),
        (GREETING + IPV4[:-2] + b"\0\0", "port 0", ACCEPTED + b"\5\1\0\1" + bytes(6)),
        (GREETING + b"\5\1\0\3\0\0\x50", "without a name", ACCEPTED + b"\5\1\0\1" + bytes(6)),
        (GREETING + b"\5\1\0\3\3a\0b\0\x50", "without a name", ACCEPTED + b"\5\1\0\1" + bytes(6)),
    ],
)
def test_garbage_and_what_is_not_offered_are_refused(said: bytes, words: str, replies: bytes) -> None:
    with pytest.raises(SocksError, match=words) as caught:
        talk(said)
    assert caught.value.args[-1] == replies


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PermissionDenied("name:web", "socket inet:stream"), 2),
        (OSError(errno.ENETUNREACH, ""), 3),
        (OSError(errno.EHOSTUNREACH, ""), 4),
        (LookupFailed("no such name"), 4),
        (UnicodeError("label too long"), 4),
        (OSError(errno.ECONNREFUSED, ""), 5),
        (OSError(errno.ETIMEDOUT, ""), 6),
        (OSError(errno.EMFILE, ""), 1),
    ],
)
def test_a_client_is_told_why_it_cannot_be_connected(error: Exception, code: int) -> None:
    def fail(_: End) -> socket.socket:
        raise error

    with pytest.raises(SocksError) as caught:
        talk(GREETING + IPV4, fail)
    assert caught.value.args[-1] == ACCEPTED + bytes((5, code, 0, 1)) + bytes(6)


def test_a_client_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socks, "_TIMEOUT", 0.01)

    async def run() -> None:
        client, served = socket.socketpair()
        with client, served:
            served.setblocking(False)
            with pytest.raises(SocksError, match="did not say within"):
                await asyncio.wait_for(socks.negotiate(served, _never), PATIENCE)

    asyncio.run(run())


async def _never(_: End) -> socket.socket:
    raise NotImplementedError
