"""What a SOCKS5 client asks for (RFC 1928): without authentication, and only to connect (CONNECT).

A host name is looked up on the other side, so that a browser or curl sees the network of the target.
"""

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Awaitable, Callable

from nsbroker.cli.forwarding.networks import reason
from nsbroker.cli.forwarding.spec import End
from nsbroker.errors import LookupFailed, NsbrokerError, PermissionDenied

_VERSION = 5
_NO_AUTHENTICATION = 0
_NO_ACCEPTABLE_METHOD = 0xFF
_CONNECT = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4
_SIZES = {_IPV4: 4, _IPV6: 16}
_SUCCEEDED, _FAILED, _NOT_ALLOWED, _BAD_COMMAND, _BAD_ADDRESS = 0, 1, 2, 7, 8
_HOST_UNREACHABLE = 4
_REPLIES = {
    errno.ENETUNREACH: 3,
    errno.EHOSTUNREACH: _HOST_UNREACHABLE,
    errno.ECONNREFUSED: 5,
    errno.ETIMEDOUT: 6,
}
# How long a client may take to say what it wants, in seconds.
_TIMEOUT = 10.0


class SocksError(Exception):
    """A client that does not speak SOCKS5, or asks for what is not offered, or cannot be connected."""


async def negotiate(client: socket.socket, connect: Callable[[End], Awaitable[socket.socket]]) -> tuple[socket.socket, End]:
    """Find out where `client` (borrowed) wants to go, and connect.  Returns the connection (the caller's) and where it leads.

    The client is told the result.  Raises SocksError, and OSError if the client has gone.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_TIMEOUT):
            end = await _read_request(client)
    except TimeoutError:
        raise SocksError(f"a SOCKS client did not say within {_TIMEOUT:g} seconds where it wants to go") from None
    try:
        sock = await connect(end)
    except (NsbrokerError, OSError, UnicodeError) as error:
        await loop.sock_sendall(client, _reply(_code(error)))
        raise SocksError(f"{end}: {reason(error)}") from error
    try:
        await loop.sock_sendall(client, _reply(_SUCCEEDED, sock))
    except BaseException:
        sock.close()
        raise
    return sock, end


async def _read_request(client: socket.socket) -> End:
    """Read the greeting and the request.  Raises SocksError."""
    loop = asyncio.get_running_loop()
    version, count = await _read(client, 2)
    if version != _VERSION:
        raise SocksError(f"a client does not speak SOCKS5 (its first byte is {version})")
    methods = await _read(client, count)
    if _NO_AUTHENTICATION not in methods:
        await loop.sock_sendall(client, bytes((_VERSION, _NO_ACCEPTABLE_METHOD)))
        raise SocksError("a SOCKS client insists on authentication, which is not offered")
    await loop.sock_sendall(client, bytes((_VERSION, _NO_AUTHENTICATION)))
    version, command, _, kind = await _read(client, 4)
    if version != _VERSION:
        raise SocksError(f"a client does not speak SOCKS5 (its request begins with {version})")
    if kind == _NAME:
        (size,) = await _read(client, 1)
    elif kind in _SIZES:
        size = _SIZES[kind]
    else:
        await loop.sock_sendall(client, _reply(_BAD_ADDRESS))
        raise SocksError(f"a SOCKS client asks for a kind of address that there is not ({kind})")
    address = await _read(client, size)
    port = int.from_bytes(await _read(client, 2), "big")
    if command != _CONNECT:
        await loop.sock_sendall(client, _reply(_BAD_COMMAND))
        raise SocksError(f"a SOCKS client asks for more than a connection, which is not offered (command {command})")
    host = address.decode("ascii", "replace") if kind == _NAME else str(ipaddress.ip_address(address))
    if not host or "\0" in host or not port:
        await loop.sock_sendall(client, _reply(_FAILED))
        raise SocksError("a SOCKS client asks for a host without a name, or for port 0")
    return End(host, port)


async def _read(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = await asyncio.get_running_loop().sock_recv(client, size - len(data))
        if not piece:
            raise SocksError("a SOCKS client hung up before it said where it wants to go")
        data += piece
    return data


def _code(error: Exception) -> int:
    """Return the number that tells a client about an error."""
    match error:
        case PermissionDenied():
            return _NOT_ALLOWED
        case LookupFailed() | UnicodeError():
            return _HOST_UNREACHABLE
        case OSError():
            return _REPLIES.get(error.errno or 0, _FAILED)
    return _FAILED


def _reply(code: int, sock: socket.socket | None = None) -> bytes:
    """Return a reply.  On success, `sock` (borrowed) is the connection, of which the reply has the address."""
    host, port = sock.getsockname()[:2] if sock is not None else ("0.0.0.0", 0)  # noqa: S104 - nothing listens there
    address = ipaddress.ip_address(host.partition("%")[0])
    kind = _IPV4 if address.version == 4 else _IPV6
    return bytes((_VERSION, code, 0, kind)) + address.packed + port.to_bytes(2, "big")
