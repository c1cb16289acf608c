"""Looking host names up as this host does, so that a name server that does not answer holds up nothing else.

getaddrinfo(3) can wait for tens of seconds.  The threads on which asyncio runs it are joined before the process ends, so that no
signal would end the command meanwhile.
"""

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Sequence
from typing import Any

from nsbroker.linux.threads import start_thread

AT_ONCE_MAX = 32
"""How many names are looked up at a time.  Others wait for their turn."""

_Found = Sequence[tuple[int, tuple[Any, ...]]]


class HostNames:
    """Looks names up on threads of its own, which end with the process."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(AT_ONCE_MAX)

    async def look_up(self, host: str, port: int) -> _Found:
        """Return the families and addresses of a host, in the order in which to try them.

        When cancelled, it returns at once.  The thread goes on, and keeps its place until it has ended.  Raises socket.gaierror,
        EAGAIN when no thread can be started, UnicodeError when `host` cannot be a host name.
        """
        with contextlib.suppress(socket.gaierror):
            # A number is known without waiting.
            return _ask(host, port, socket.AI_NUMERICHOST)
        await self._turns.acquire()
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[_Found] = loop.create_future()

        def finish(found: _Found, failure: Exception | None) -> None:
            self._turns.release()
            if answered.done():
                return
            if failure is None:
                answered.set_result(found)
            else:
                answered.set_exception(failure)

        def run() -> None:
            found: _Found = ()
            failure = None
            try:
                found = _ask(host, port)
            except Exception as error:
                failure = error
            # The event loop can end before this does.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(finish, found, failure)

        try:
            start_thread("look up", run)
        except RuntimeError as error:
            self._turns.release()
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error
        return await answered


def _ask(host: str, port: int, flags: int = 0) -> _Found:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | flags)
    return [(family, address) for family, _, _, _, address in found]
