"""A query to engines: on whose behalf it is made, its result, and a way to make many requests at a time."""

from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple, TypeVar

import trio

from nsbroker.daemon.engines.container import Container
from nsbroker.errors import EngineUnavailable

A = TypeVar("A")
R = TypeVar("R")

_AT_ONCE = 8


class EngineQuery(NamedTuple):
    """The peer on whose behalf engines are queried, and what the rules let this peer know of."""

    user: int
    """The user whom the query is counted to: see `limits.users`."""
    uid: int
    gid: int
    with_rootless: bool
    """Whether the peer's rootless engines are queried, too: its uid is known, and rules allow what is its own."""
    may_name: Callable[[str], bool]
    """Tells whether a rule has a pattern for containers of an engine."""
    may_know: Callable[[Container], bool]
    """Tells whether a rule names a container."""


class QueryResult(NamedTuple):
    """The containers that engines know, and an error for each engine that could not be queried, which is `unraised`."""

    containers: list[Container]
    failures: list[EngineUnavailable]


def unraised(error: EngineUnavailable) -> EngineUnavailable:
    """Return an equal error that nobody has raised.

    An error that was raised refers to all frames on its way.  If one of them has a result that refers to the error, then all of
    them stay in memory until a full garbage collection, which is rare.
    """
    return EngineUnavailable(error.engine, error.reason)


async def query_each(function: Callable[[A], Awaitable[R]], arguments: Iterable[A]) -> list[R]:
    """Await `function` for each of `arguments`, a few at a time, and return the results in their order.

    The first error stops the others, and is raised.
    """
    results: dict[int, R] = {}
    errors: list[Exception] = []
    waiting = enumerate(arguments)

    async def work() -> None:
        for number, argument in waiting:
            try:
                results[number] = await function(argument)
            except Exception as error:
                errors.append(error)
                nursery.cancel_scope.cancel()
                return

    async with trio.open_nursery() as nursery:
        for _ in range(_AT_ONCE):
            nursery.start_soon(work)
    if errors:
        # Errors to which the list still referred would stay in memory: see `unraised`.
        del errors[1:]
        raise errors.pop()
    return [results[number] for number in sorted(results)]
