"""Forwarding connections: each one that is accepted leads to another, and a relay moves the bytes."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from nsbroker.cli.forwarding.networks import reason
from nsbroker.cli.forwarding.progress import Progress
from nsbroker.cli.forwarding.relay import Relay, reset
from nsbroker.cli.forwarding.socks import SocksError
from nsbroker.errors import NsbrokerError

_PAUSE = 0.1

Connect = Callable[[socket.socket], Awaitable[tuple[socket.socket, str]]]
"""Returns the connection (the caller's) for one that was accepted (borrowed), and where it leads, for people."""


class Way(NamedTuple):
    """Where connections come from and lead to, for people, and how they are made."""

    listen: str
    to: str
    connect: Connect


async def forward_connections(listener: socket.socket, way: Way, relay: Relay, progress: Progress) -> None:
    """Forward each connection to `listener` (borrowed), until this is cancelled.  Connections that are open then are reset.

    Raises a group with an OSError when nobody can be told of a connection any longer.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        while True:
            try:
                accepted, _ = await loop.sock_accept(listener)
            except OSError as error:
                # No descriptors are left.  New connections wait in the kernel's queue until others end.  Those that took the last
                # descriptors are reset by `_serve`, which finds none for the other side.
                progress.complain(f"cannot accept a connection: {error.strerror}")
                await asyncio.sleep(_PAUSE)
                continue
            group.create_task(_serve(accepted, way, relay, progress))


async def _serve(accepted: socket.socket, way: Way, relay: Relay, progress: Progress) -> None:
    """Forward one connection.  Takes `accepted`."""
    try:
        other, to = await way.connect(accepted)
    except BaseException as error:
        reset(accepted)
        accepted.close()
        if not isinstance(error, NsbrokerError | OSError | UnicodeError | SocksError):
            raise
        progress.failed(way.to, reason(error))
        return
    with progress.connection(way.listen, to) as traffic:
        await relay.run(accepted, other, traffic)
