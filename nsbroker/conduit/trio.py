"""The trio conduit."""

import contextlib
import socket
from collections.abc import Awaitable, Callable

import trio

from nsbroker.conduit.async_conduit import AsyncConduit
from nsbroker.errors import ConduitClosed


class Conduit(AsyncConduit):
    """Sends and receives one descriptor at a time over a connected AF_UNIX socket of any type, which it takes.

    Sending closes the original, but only after it was sent.  A received descriptor that is refused is closed.  Everything
    received is close-on-exec.  The socket may be blocking or not; that stays as it is.  As with trio's own sockets, only one
    task may receive at a time, and one send.
    """

    def close(self) -> None:
        """Close the socket.  Closing twice is harmless.  Tasks that wait on it get ConduitClosed."""
        if not self.closed:
            with contextlib.suppress(RuntimeError):  # Outside of trio.run(), no task waits.
                trio.lowlevel.notify_closing(self._sock)
        super().close()

    async def _send(self, fd: int, what: str) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        await super()._send(fd, what)

    async def _wait_readable(self) -> None:
        await self._wait(trio.lowlevel.wait_readable)

    async def _wait_writable(self) -> None:
        await self._wait(trio.lowlevel.wait_writable)

    async def _wait(self, wait: Callable[[socket.socket], Awaitable[None]]) -> None:
        try:
            await wait(self._sock)
        except trio.ClosedResourceError as error:
            raise ConduitClosed("this conduit was closed meanwhile") from error
