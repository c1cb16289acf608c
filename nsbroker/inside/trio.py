"""Running a function inside namespaces, for trio."""

import contextlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

import trio

from nsbroker.inside.visit import Enterable, Visit
from nsbroker.linux.threads import start_thread

T = TypeVar("T")


async def call(namespaces: Iterable[Enterable], function: Callable[..., T], *args: object) -> T:
    """Like `nsbroker.inside.call`, but other tasks can run meanwhile.

    When cancelled, it returns at once.  The thread then runs the function to its end, and the result is dropped.
    """
    token = trio.lowlevel.current_trio_token()
    finished = trio.Event()

    def notify() -> None:
        # The event loop can end before the function does.
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(finished.set)

    visit = Visit(namespaces, function, args, notify)
    await trio.lowlevel.checkpoint_if_cancelled()
    visit.start(partial(start_thread, "inside"))
    await finished.wait()
    return visit.result()
