"""Asking many at once."""

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import trio

Q = TypeVar("Q")
A = TypeVar("A")

_AT_ONCE = 8


async def ask_each(ask: Callable[[Q], Awaitable[A]], questions: Iterable[Q]) -> list[A]:
    """What `ask` answers to each question, in their order, some of them at a time.  Raises the first error."""
    answers: dict[int, A] = {}
    errors: list[Exception] = []
    limit = trio.CapacityLimiter(_AT_ONCE)

    async def ask_one(number: int, question: Q) -> None:
        try:
            async with limit:
                answers[number] = await ask(question)
        except Exception as error:
            errors.append(error)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for number, question in enumerate(questions):
            nursery.start_soon(ask_one, number, question)
    if errors:
        raise errors[0]
    return [answers[number] for number in sorted(answers)]
