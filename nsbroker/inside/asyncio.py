"""Running a function inside namespaces, for asyncio."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

from nsbroker.inside.visit import Enterable, Visit
from nsbroker.linux.threads import start_thread

T = TypeVar("T")


async def call(namespaces: Iterable[Enterable], function: Callable[..., T], *args: object) -> T:
    """Like `nsbroker.inside.call`, but other tasks can run meanwhile.

    When cancelled, it returns at once.  The thread then runs the function to its end, and the result is dropped.
    """
    loop = asyncio.get_running_loop()
    finished = asyncio.Event()

    def notify() -> None:
        # The event loop can end before the function does.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(finished.set)

    visit = Visit(namespaces, function, args, notify)
    visit.start(partial(start_thread, "inside"))
    await finished.wait()
    return visit.result()
