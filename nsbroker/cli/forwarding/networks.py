"""The two sides of a forward: the network of this process (`Here`), and that of a target (`Inside`).

Either side can be listened on, and connected to from the other.  All sockets are non-blocking, and the caller's to close.
"""

import asyncio
import contextlib
import errno
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from nsbroker.cli.forwarding.host_names import HostNames
from nsbroker.cli.forwarding.spec import End
from nsbroker.client.addresses import RETRY, concerns_one_address, most_informative
from nsbroker.client.asyncio import Broker
from nsbroker.errors import CommandFailed, NsbrokerError, PermissionDenied
from nsbroker.linux.stale_socket import remove_stale
from nsbroker.model.target import Target

FOLLOW = 3.0
"""How often it is checked, in seconds, whether a target was restarted."""
_BACKLOG = 1024
# Ten seconds, with RETRY between two tries.
_TRIES = 1000
_LOOPBACKS = ((socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_INET6, ("::1", 0, 0, 0)))
# Only the user who runs the command may connect to a Unix socket of its own.
_UNIX_UMASK = 0o177

Address = tuple[int, tuple[Any, ...] | bytes]
"""A family, and an address of this family."""


class Network(ABC):
    """One side of a forward."""

    name: str
    """What it is called, for people."""
    moves = False
    """Whether sockets that listen can be left behind in a network that is gone, as that of a container that was restarted."""

    @abstractmethod
    def describe(self, end: End) -> str:
        """Return where `end` is, for people."""

    @abstractmethod
    async def open_socket(self, family: int, kind: int) -> socket.socket:
        """Open a socket.  Raises OSError, and the errors of `Broker.socket`."""

    @abstractmethod
    async def _look_up(self, host: str, port: int) -> Sequence[Address]:
        """Return the addresses of a host, in the order in which to try them."""

    async def _bind(self, family: int, kind: int, address: tuple[Any, ...] | bytes) -> socket.socket:
        """Return a socket that is bound to `address`.  Raises OSError, and the errors of `open_socket`."""
        sock = await self.open_socket(family, kind)
        try:
            if kind == socket.SOCK_STREAM and family != socket.AF_UNIX:
                # Connections that ended a moment ago still have the port.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            with _private():
                sock.bind(address)
        except BaseException:
            sock.close()
            raise
        return sock

    async def connect(self, end: End, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """Connect to `end`; for SOCK_DGRAM, that is where datagrams go.

        Raises the last OSError if no address of the host can be connected to, and LookupFailed and the errors of `open_socket`.
        """
        failures: list[Exception] = []
        for family, address in await self._addresses(end):
            sock = None
            try:
                sock = await self.open_socket(family, kind)
                await _connect(sock, address)
                return sock
            except BaseException as error:
                if sock is not None:
                    sock.close()
                if not isinstance(error, Exception) or not concerns_one_address(error):
                    raise
                failures.append(error)
        # Most servers listen on IPv4, so that the error there says more.
        raise most_informative(failures) if end.host or end.path else failures[0]

    async def listen(self, end: End, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """Listen on `end`; with SOCK_DGRAM, the socket is only bound.  Raises CommandFailed."""
        try:
            family, address = (await self._addresses(end))[0]
            sock = await self._bind(family, kind, address)
            try:
                if kind == socket.SOCK_STREAM:
                    sock.listen(_BACKLOG)
            except BaseException:
                sock.close()
                raise
        except NsbrokerError as error:
            raise CommandFailed(f"cannot listen on {self.describe(end)}: {error}") from error
        except (OSError, UnicodeError) as error:
            # UnicodeError: the text cannot be a host name.
            raise CommandFailed(f"cannot listen on {self.describe(end)}: {reason(error)}") from error
        return sock

    async def _addresses(self, end: End) -> Sequence[Address]:
        if end.path:
            return [(socket.AF_UNIX, end.unix_address)]
        if not end.host:
            return [(family, (host, end.port, *others)) for family, (host, _, *others) in _LOOPBACKS]
        return await self._look_up(end.host, end.port)


class Here(Network):
    """The network of this process."""

    name = "here"

    def __init__(self) -> None:
        """Make it where an event loop runs."""
        self._names = HostNames()

    def describe(self, end: End) -> str:
        """Return where `end` is, for people."""
        return str(end) if end.host or end.path else f"{end} here"

    async def open_socket(self, family: int, kind: int) -> socket.socket:
        """Open a socket.  Raises OSError."""
        return socket.socket(family, kind | socket.SOCK_NONBLOCK)

    async def listen(self, end: End, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """Listen on `end`, as any network does, in place of a Unix socket that nobody listens on any longer."""
        if end.path and not end.path.startswith("@"):
            # If it is something else, bind(2) says so.
            with contextlib.suppress(OSError):
                remove_stale(end.path)
        return await super().listen(end, kind)

    async def _look_up(self, host: str, port: int) -> Sequence[Address]:
        return await self._names.look_up(host, port)


class Inside(Network):
    """The network of a target.  Its sockets come from the broker, and names are looked up as the target does."""

    moves = True

    def __init__(self, broker: Broker, target: Target) -> None:
        """Borrows `broker`."""
        self.name = str(target)
        self._broker = broker
        self._target = target

    def describe(self, end: End) -> str:
        """Return where `end` is, for people."""
        return f"{self.name}, {end}" if end.host or end.path else f"{self.name} {end}"

    async def open_socket(self, family: int, kind: int) -> socket.socket:
        """Open a socket in the target's network.  Raises the errors of `Broker.socket`."""
        return await self._broker.socket(self._target, family, kind)

    async def check_allowed(self, family: int, kind: int) -> None:
        """Raise PermissionDenied if no socket of this family and kind is allowed; of IPv4, one of IPv6 is enough."""
        try:
            (await self.open_socket(family, kind)).close()
        except PermissionDenied as error:
            if family != socket.AF_INET:
                raise
            try:
                (await self.open_socket(socket.AF_INET6, kind)).close()
            except PermissionDenied:
                raise error from None

    async def _bind(self, family: int, kind: int, address: tuple[Any, ...] | bytes) -> socket.socket:
        if isinstance(address, bytes) and not address.startswith(b"\0"):
            raise CommandFailed("the file of a Unix socket cannot be made inside a target: write unix:@NAME")
        try:
            return await super()._bind(family, kind, address)
        except PermissionError:
            # The port is a privileged one there.  The broker can bind to it, if a rule allows that.
            host, port, *_ = address
            return await self._broker.socket(self._target, family, kind, bind=(str(host), int(port)))

    async def _look_up(self, host: str, port: int) -> Sequence[Address]:
        found = await self._broker._look_up_inside(self._target, (host, port))
        return [(one.family, one.sockaddr) for one in found]


async def _connect(sock: socket.socket, address: tuple[Any, ...] | bytes) -> None:
    """Connect `sock` (borrowed).  Raises OSError."""
    if sock.family != socket.AF_UNIX:
        await asyncio.get_running_loop().sock_connect(sock, address)
        return
    for _ in range(_TRIES):
        try:
            sock.connect(address)
        except BlockingIOError:
            # The queue of the listener is full, and the kernel has no event for when there is room again (unix(7)).
            await asyncio.sleep(RETRY)
        else:
            return
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def reason(error: BaseException) -> str:
    """Return why something failed, for people.  The texts of asyncio's OSErrors are not fit for them."""
    if isinstance(error, NsbrokerError) or not isinstance(error, OSError) or error.errno is None:
        return str(error)
    # An error of looking up a host has a number of its own, which is negative.
    return os.strerror(error.errno) if error.errno > 0 else str(error.strerror)


@contextlib.contextmanager
def _private() -> Iterator[None]:
    before = os.umask(_UNIX_UMASK)
    try:
        yield
    finally:
        os.umask(before)
