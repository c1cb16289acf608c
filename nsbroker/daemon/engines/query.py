"""Asking many at once, and what comes of it."""

from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple, TypeVar

import trio

from nsbroker.daemon.engines.container import Container
from nsbroker.errors import EngineUnavailable

Q = TypeVar("Q")
A = TypeVar("A")

_AT_ONCE = 8


class Survey(NamedTuple):
    """What engines said: containers, and which engines could not be asked."""

    containers: list[Container]
    failures: list[EngineUnavailable]


async def ask_each(ask: Callable[[Q], Awaitable[A]], questions: Iterable[Q]) -> list[A]:
    """What `ask` answers to each question, in their order, some of them at a time.  Raises the first error."""
    answers: dict[int, A] = {}
    errors: list[Exception] = []
    waiting = enumerate(questions)

    async def work() -> None:
        for number, question in waiting:
            try:
                answers[number] = await ask(question)
            except Exception as error:
                errors.append(error)
                nursery.cancel_scope.cancel()
                return

    async with trio.open_nursery() as nursery:
        for _ in range(_AT_ONCE):
            nursery.start_soon(work)
    if errors:
        raise errors[0]
    return [answers[number] for number in sorted(answers)]
