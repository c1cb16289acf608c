"""One thing that is forwarded, from where it listens on.

Inside a target, it listens again after the target was restarted: a socket stays in the network in which it was made, and keeps it
alive.  So now and then, another socket is bound to the same address.  As long as that fails because the address is in use, both are
in the same network.
"""

import asyncio
import contextlib
import errno
import os
import socket
from typing import NamedTuple

from nsbroker.cli.forwarding import socks
from nsbroker.cli.forwarding.datagrams import Datagrams, DatagramWay
from nsbroker.cli.forwarding.networks import FOLLOW, Network
from nsbroker.cli.forwarding.progress import Progress
from nsbroker.cli.forwarding.relay import Relay
from nsbroker.cli.forwarding.spec import End, Protocol
from nsbroker.cli.forwarding.streams import Way, forward_connections
from nsbroker.errors import CommandFailed, SocketFailed
from nsbroker.linux.stale_socket import BoundFile


class Forward(NamedTuple):
    """What to forward between two networks.  `to` is None where each client says where it wants to go (SOCKS)."""

    listening: Network
    other: Network
    listen: End
    to: End | None
    protocol: Protocol

    @property
    def kind(self) -> int:
        """The SOCK_* number of its sockets."""
        return socket.SOCK_DGRAM if self.protocol is Protocol.UDP else socket.SOCK_STREAM

    @property
    def needs(self) -> tuple[int, int]:
        """The family and the kind of the sockets in the other network."""
        return socket.AF_UNIX if self.to is not None and self.to.path else socket.AF_INET, self.kind

    @property
    def leads_to(self) -> str:
        """Where it leads, for people."""
        return f"{self.other.name} (SOCKS5)" if self.to is None else self.other.describe(self.to)


class Listener:
    """Listens, and forwards what arrives.  Use `open`, and close it."""

    def __init__(self, forward: Forward, sock: socket.socket, relay: Relay, progress: Progress) -> None:
        """Use `open`.  Takes `sock`, which listens already."""
        self._forward = forward
        self._relay = relay
        self._progress = progress
        self._sock = sock
        # Any free port was chosen once, and is kept.
        self._end = forward.listen if forward.listen.path else End(*sock.getsockname()[:2])
        has_file = self._end.path and not self._end.path.startswith("@") and not forward.listening.moves
        self._file = BoundFile(self._end.path) if has_file else None
        self._tell()

    @classmethod
    async def open(cls, forward: Forward, relay: Relay, progress: Progress) -> "Listener":
        """Listen, and tell so.  Borrows `relay`.  Raises CommandFailed."""
        return cls(forward, await forward.listening.listen(forward.listen, forward.kind), relay, progress)

    async def run(self) -> None:
        """Forward until this is cancelled.  Raises a group with an OSError when nobody can be told what happens any longer."""
        if not self._forward.listening.moves:
            await self._serve()
        while True:
            async with asyncio.TaskGroup() as group:
                serving = group.create_task(self._serve())
                moved = await self._wait_for_another_network()
                # What is open in the old network leads nowhere any longer.
                serving.cancel()
            self._sock.close()
            self._sock = moved
            self._tell()

    def close(self) -> None:
        """Stop listening.  Call this when `run` has ended."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.remove()
        self._sock.close()

    async def _serve(self) -> None:
        listen, to = self._listen, self._forward.leads_to
        if self._forward.protocol is Protocol.UDP:
            way = DatagramWay(listen, to, self._connect_datagrams, self._open_datagram_socket)
            await Datagrams(self._sock, way, self._progress).run()
        else:
            await forward_connections(self._sock, Way(listen, to, self._connect), self._relay, self._progress)

    async def _connect(self, accepted: socket.socket) -> tuple[socket.socket, str]:
        """Return the connection (the caller's) for one that was accepted (borrowed), and where it leads."""
        forward = self._forward
        if forward.to is not None:
            return await forward.other.connect(forward.to), forward.leads_to
        sock, end = await socks.negotiate(accepted, forward.other.connect)
        return sock, forward.other.describe(end)

    async def _connect_datagrams(self) -> socket.socket:
        if self._forward.to is None:
            raise ValueError("SOCKS is for connections")
        return await self._forward.other.connect(self._forward.to, self._forward.kind)

    async def _open_datagram_socket(self, family: int) -> socket.socket:
        return await self._forward.other.open_socket(family, self._forward.kind)

    async def _wait_for_another_network(self) -> socket.socket:
        """Wait until the target has another network.  Returns a socket (the caller's) that listens there."""
        told = False
        while True:
            await asyncio.sleep(FOLLOW)
            try:
                return await self._forward.listening.listen(self._end, self._forward.kind)
            except CommandFailed as error:
                if _is_in_use(error.__cause__):
                    told = False
                elif not told:
                    told = True
                    self._progress.waiting(self._listen, str(error))

    @property
    def _listen(self) -> str:
        return self._forward.listening.describe(self._end)

    def _tell(self) -> None:
        self._progress.listening(self._listen, self._forward.leads_to, self._forward.protocol)


def _is_in_use(error: BaseException | None) -> bool:
    """Return whether an error of listening means that another socket in the same network has the address."""
    if isinstance(error, SocketFailed):
        # The broker tried to bind it, and tells the reason as a text.
        return os.strerror(errno.EADDRINUSE).lower() in str(error).lower()
    return isinstance(error, OSError) and error.errno == errno.EADDRINUSE
