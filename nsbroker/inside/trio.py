"""The trio form."""

import contextlib
from collections.abc import Callable, Iterable
from typing import TypeVar

import trio

from nsbroker.inside.visit import Enterable, Visit

T = TypeVar("T")


async def call(namespaces: Iterable[Enterable], function: Callable[..., T], *args: object) -> T:
    """As `nsbroker.inside.call`, while other tasks go on.

    Cancelled, it returns at once: the thread goes on alone to the end of the function, and what that returns is dropped.
    """
    token = trio.lowlevel.current_trio_token()
    finished = trio.Event()

    def tell() -> None:
        # The loop may be over before the function is.
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(finished.set)

    visit = Visit(namespaces, function, args, tell)
    await trio.lowlevel.checkpoint_if_cancelled()
    visit.start()
    await finished.wait()
    return visit.result()
