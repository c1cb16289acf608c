"""The asyncio form."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import TypeVar

from nsbroker.inside.visit import Enterable, Visit

T = TypeVar("T")


async def call(namespaces: Iterable[Enterable], function: Callable[..., T], *args: object) -> T:
    """As `nsbroker.inside.call`, while other tasks go on.

    Cancelled, it returns at once: the thread goes on alone to the end of the function, and what that returns is dropped.
    """
    loop = asyncio.get_running_loop()
    finished = asyncio.Event()

    def tell() -> None:
        # The loop may be over before the function is.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(finished.set)

    visit = Visit(namespaces, function, args, tell)
    visit.start()
    await finished.wait()
    return visit.result()
