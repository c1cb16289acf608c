"""What methods do inside a network namespace, on threads that end afterwards."""

from collections.abc import Callable
from typing import TypeVar, cast

import trio

import nsbroker.inside.trio
from nsbroker.daemon.audit import Audit
from nsbroker.errors import ReturnFailed
from nsbroker.namespace import Namespace

T = TypeVar("T")


class Visits:
    """Runs functions inside namespaces, each on a thread of its own."""

    def __init__(self, most: int) -> None:
        """`most` is the number of threads that are inside namespaces at one time; further calls wait."""
        self._limiter = trio.CapacityLimiter(most)

    async def call(self, ns: Namespace, function: Callable[[], T], *, to_its_end: bool = False) -> T:
        """Run `function` inside `ns` (borrowed), and return its result.

        If this is cancelled, the thread goes on alone, and its result is dropped: the garbage collector must close what it opened.
        With `to_its_end`, a thread that has begun is waited for.  Raises EnterFailed, and the errors of `function`.
        """
        try:
            async with self._limiter:
                with trio.CancelScope(shield=to_its_end):
                    result = await nsbroker.inside.trio.call([ns], function)
        except ReturnFailed as error:
            # The thread could not switch back and has ended.  The function has run inside all the same.
            Audit.say(f"internal error: {error}")
            result = cast(T, error.result)
        return result
