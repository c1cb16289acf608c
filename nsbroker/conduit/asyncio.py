"""The asyncio conduit."""

import asyncio
import socket
from collections.abc import Callable

from nsbroker.conduit.async_conduit import AsyncConduit
from nsbroker.errors import ConduitClosed


class Conduit(AsyncConduit):
    """Sends and receives one descriptor at a time over a connected AF_UNIX socket of any type, which it takes.

    Sending closes the original, but only after it was sent.  A received descriptor that is refused is closed.  Everything
    received is close-on-exec.  The socket may be blocking or not; that stays as it is.  Tasks that receive take turns, and so
    do tasks that send.
    """

    def __init__(self, sock: socket.socket) -> None:
        """Take `sock`; after UnusableTransport it is still the caller's."""
        super().__init__(sock)
        # An event loop has only one reader and one writer for each descriptor.
        self._receiving = asyncio.Lock()
        self._sending = asyncio.Lock()
        self._waits: set[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = set()

    def close(self) -> None:
        """Close the socket.  Closing twice is harmless.  Tasks that wait on it get ConduitClosed."""
        for loop, woken in self._waits:
            loop.remove_reader(self._sock)
            loop.remove_writer(self._sock)
            _wake(woken)
        self._waits.clear()
        super().close()

    async def _send(self, fd: int, what: str) -> None:
        async with self._sending:
            await super()._send(fd, what)

    async def _receive(self) -> int:
        async with self._receiving:
            return await super()._receive()

    async def _wait_readable(self) -> None:
        loop = asyncio.get_running_loop()
        await self._wait(loop, loop.add_reader, loop.remove_reader)

    async def _wait_writable(self) -> None:
        loop = asyncio.get_running_loop()
        await self._wait(loop, loop.add_writer, loop.remove_writer)

    async def _wait(
        self, loop: asyncio.AbstractEventLoop, add: Callable[..., object], remove: Callable[[socket.socket], object]
    ) -> None:
        woken = loop.create_future()
        add(self._sock, _wake, woken)
        self._waits.add((loop, woken))
        try:
            await woken
        finally:
            # After `close`, the descriptor may already be another file's.
            if not self.closed:
                self._waits.discard((loop, woken))
                remove(self._sock)
        if self.closed:
            raise ConduitClosed("this conduit was closed meanwhile")


def _wake(woken: "asyncio.Future[None]") -> None:
    # The loop may call this once more before the descriptor is removed from it, and the task may be cancelled already.
    if not woken.done():
        woken.set_result(None)
