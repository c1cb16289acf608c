"""The asyncio conduit with blocking methods, so that the same test serves all conduits."""

import asyncio
import socket
from typing import Any

import nsbroker.conduit.asyncio
from tests.world import PATIENCE


class OnAsyncio:
    """Runs each call on an event loop of its own."""

    def __init__(self, sock: socket.socket) -> None:
        self._conduit = nsbroker.conduit.asyncio.Conduit(sock)

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any) -> Any:
            async with asyncio.timeout(PATIENCE):
                return await getattr(self._conduit, name)(*arguments)

        if name in ("close", "closed"):
            return getattr(self._conduit, name)
        return lambda *arguments: asyncio.run(call(*arguments))
