"""Forwarding datagrams (UDP): each client has an association, a socket of its own on the other side.

An association ends when nothing was sent either way for a minute.  When there are too many, the one that was unused for the longest
time ends.  As everywhere with UDP, what there is no room for is lost.

A socket stays in the network in which it was made, and keeps it alive after a target was restarted.  So while datagrams are sent,
another socket is opened now and then: if it is in another network, the associations of the old one end, and the next datagram of a
client makes another.
"""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from nsbroker.cli.forwarding.networks import FOLLOW, reason
from nsbroker.cli.forwarding.progress import Progress
from nsbroker.cli.forwarding.relay import Traffic
from nsbroker.errors import NsbrokerError
from nsbroker.linux.socket_options import netns_cookie

ASSOCIATIONS_MAX = 1024
TIMEOUT = 60.0
"""After how many seconds without a datagram an association ends."""
_RETRY = 1.0
"""For how many seconds nothing is tried again for a client that could not be given a socket."""
_OPENING_MAX = 32
_WAITING_MAX = 64
# After this number of datagrams from one socket, others get a turn on the event loop.
_IN_A_ROW = 32
_SIZE = 65535
_ANCILLARY_SIZE = 64
_BUFFER = 1 << 20
# Not every Python that is supported has these in `socket`; they are the same on all architectures (linux/in.h, linux/in6.h).
_IP_PKTINFO, _IPV6_RECVPKTINFO = 8, 49
# What sending fails with when the server, the way to it, or the address that it is sent from (EINVAL) is gone.
_UNREACHABLE = (errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL, errno.EINVAL)
# After this number of such errors without a reply between them, another socket may do better.
_ERRORS_MAX = 2

_Ancillary = tuple[tuple[int, int, bytes], ...]
_Client = tuple[Any, _Ancillary]
"""The address of a client, and to which of our addresses it sends (ip(7), IP_PKTINFO)."""


class DatagramWay(NamedTuple):
    """Where datagrams come from and lead to, for people, and how the sockets (the caller's) on the other side are made."""

    listen: str
    to: str
    connect: Callable[[], Awaitable[socket.socket]]
    """Opens the socket of an association."""
    open_socket: Callable[[int], Awaitable[socket.socket]]
    """Opens a socket of a family in the network that the other side has now."""


class Datagrams:
    """Forwards the datagrams that arrive at one socket."""

    def __init__(self, listener: socket.socket, way: DatagramWay, progress: Progress, timeout: float = TIMEOUT) -> None:
        """Borrow `listener`.  `timeout` is in seconds."""
        self._listener = listener
        self._way = way
        self._progress = progress
        self._timeout = timeout
        self._opening = asyncio.Semaphore(_OPENING_MAX)
        # The association that was unused for the longest time comes first.
        self._associations: dict[_Client, _Association] = {}
        self._tasks = asyncio.TaskGroup()

    async def run(self) -> None:
        """Forward until this is cancelled.  Raises a group with an OSError when nobody can be told of an association any longer."""
        loop = asyncio.get_running_loop()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        if self._listener.getsockname()[0] in ("0.0.0.0", "::"):  # noqa: S104 - it asks whether the user chose that
            # Replies must come from the address that the client sent to.
            if self._listener.family == socket.AF_INET6:
                self._listener.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
            else:
                self._listener.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        async with self._tasks:
            loop.add_reader(self._listener.fileno(), self._on_readable)
            self._tasks.create_task(self._follow())
            try:
                while True:
                    await asyncio.sleep(min(self._timeout / 10, _RETRY))
                    self._end_unused(loop.time())
            finally:
                loop.remove_reader(self._listener.fileno())

    def reply(self, data: bytes, client: _Client) -> None:
        """Send a datagram to a client."""
        address, ancillary = client
        with contextlib.suppress(OSError):
            self._listener.sendmsg((data,), ancillary, 0, address)

    async def open(self) -> socket.socket:
        """Open the socket (the caller's) of an association."""
        async with self._opening:
            return await self._way.connect()

    def _on_readable(self) -> None:
        for _ in range(_IN_A_ROW):
            try:
                data, ancillary, _, address = self._listener.recvmsg(_SIZE, _ANCILLARY_SIZE)
            except BlockingIOError:
                return
            except OSError:
                continue  # what the network says about an earlier datagram
            client = address, tuple(ancillary)
            association = self._associations.pop(client, None)
            if association is None:
                if len(self._associations) >= ASSOCIATIONS_MAX:
                    self._end(next(iter(self._associations.values())))
                association = _Association(self, client, self._way, self._progress)
                association.task = self._tasks.create_task(association.run())
            self._associations[client] = association
            association.send(data)

    def _end_unused(self, now: float) -> None:
        for association in [*self._associations.values()]:
            if now - association.used >= (_RETRY if association.failed else self._timeout):
                self._end(association)

    async def _follow(self) -> None:
        """Now and then, end the associations that lead nowhere any longer, so that their clients get others."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            await asyncio.sleep(FOLLOW)
            used = [one for one in self._associations.values() if one.used >= began and one.network is not None]
            network = await self._network_now(used[0].family) if used else None
            for association in [*self._associations.values()]:
                if association.errors >= _ERRORS_MAX or association.is_elsewhere(network):
                    self._end(association)

    async def _network_now(self, family: int) -> int | None:
        """Return the number of the network that the other side has now; None if that cannot be found out."""
        try:
            with await self._way.open_socket(family) as sock:
                return _network_of(sock)
        except (NsbrokerError, OSError):
            return None  # The target may be there again soon.

    def _end(self, association: "_Association") -> None:
        del self._associations[association.client]
        association.task.cancel()


class _Association:
    """One client, and its socket on the other side.  `run` is a task of its own, which lasts until it is cancelled."""

    task: asyncio.Task[None]

    def __init__(self, owner: Datagrams, client: _Client, way: DatagramWay, progress: Progress) -> None:
        self._owner = owner
        self.client = client
        self._way = way
        self._progress = progress
        self._sock: socket.socket | None = None
        self._waiting: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self._traffic = Traffic.none()
        self.used = self._loop.time()
        """When a datagram was sent either way, by the clock of the loop; if it has failed: before that."""
        self.failed = False
        """Whether it could not be opened."""
        self.family = 0
        """The family of its socket, once that is open."""
        self.network: int | None = None
        """The number of the network of its socket; None as long as that is not known."""
        self.errors = 0
        """How often the network said since the last reply that what was sent cannot arrive."""

    def is_elsewhere(self, network: int | None) -> bool:
        """Return whether its socket is certainly not in the network with this number."""
        return None not in (network, self.network) and network != self.network

    def send(self, data: bytes) -> None:
        """Send a datagram of the client, now or as soon as the socket is open."""
        if self.failed:
            return  # Without being used, it ends soon, and another one is tried.
        self.used = self._loop.time()
        if self._sock is not None:
            self._send(self._sock, data)
        elif len(self._waiting) < _WAITING_MAX:
            self._waiting.append(data)

    def _send(self, sock: socket.socket, data: bytes) -> None:
        for _ in range(2):
            try:
                self._traffic.sent.bytes += sock.send(data)
            except BlockingIOError:
                return
            except OSError as error:
                self._note(error)
                continue  # what the network says about an earlier datagram: send this one again
            return

    def _note(self, error: OSError) -> None:
        self.errors += error.errno in _UNREACHABLE

    async def run(self) -> None:
        """Open the socket, and send replies to the client.  Raises OSError when nobody can be told of it."""
        try:
            sock = await self._owner.open()
        except (NsbrokerError, OSError, UnicodeError) as error:
            self.failed = True
            self._waiting.clear()
            self._progress.failed(self._way.to, reason(error))
            return
        with sock, self._progress.connection(self._way.listen, self._way.to) as self._traffic:
            self.family, self.network = sock.family, _network_of(sock)
            self._loop.add_reader(sock.fileno(), self._on_readable, sock)
            try:
                self._sock = sock
                for data in self._waiting:
                    self._send(sock, data)
                self._waiting.clear()
                await self._loop.create_future()
            finally:
                self._sock = None
                self._loop.remove_reader(sock.fileno())

    def _on_readable(self, sock: socket.socket) -> None:
        for _ in range(_IN_A_ROW):
            try:
                data = sock.recv(_SIZE)
            except BlockingIOError:
                return
            except OSError as error:
                self._note(error)
                continue  # nobody listens where it leads, for example
            self.errors = 0
            self.used = self._loop.time()
            self._traffic.received.bytes += len(data)
            self._owner.reply(data, self.client)


def _network_of(sock: socket.socket) -> int | None:
    """Return the number of the network of `sock` (borrowed); None before Linux 5.14."""
    with contextlib.suppress(OSError):
        return netns_cookie(sock)
    return None
