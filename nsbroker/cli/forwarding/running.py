"""Running everything that one `nsbroker forward` was asked to forward, until a signal."""

import asyncio
import contextlib
import signal
from collections.abc import Coroutine, Sequence
from typing import NamedTuple

import nsbroker.client.asyncio
from nsbroker.cli.forwarding.listener import Forward, Listener
from nsbroker.cli.forwarding.networks import Here, Inside
from nsbroker.cli.forwarding.progress import Progress, announce_ready
from nsbroker.cli.forwarding.relay import Relay
from nsbroker.cli.forwarding.spec import End, Protocol, Spec
from nsbroker.model.target import Target


class Wanted(NamedTuple):
    """Everything that one command forwards."""

    inward: Sequence[Spec] = ()
    """Listen here, and lead into the target."""
    outward: Sequence[Spec] = ()
    """Listen inside the target, and lead here."""
    socks: Sequence[End] = ()
    """Listen here, and lead to wherever a SOCKS client wants inside."""


async def run(target: Target, wanted: Wanted, progress: Progress, timeout: float, ready_fd: int | None) -> None:
    """Forward until SIGINT or SIGTERM.  `timeout` is in seconds, for the broker.  Takes `ready_fd`, as `announce_ready` does.

    Raises CommandFailed if it cannot listen, PermissionDenied if a socket is not allowed, and the errors of `connect`.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    # A broker that does not answer must not delay the end.
    await _run_until_one_ends([_forward(target, wanted, progress, timeout, ready_fd), stop.wait()])


async def _forward(target: Target, wanted: Wanted, progress: Progress, timeout: float, ready_fd: int | None) -> None:
    """Forward until this is cancelled."""
    async with nsbroker.client.asyncio.connect(timeout=timeout) as broker:
        here, inside = Here(), Inside(broker, target)
        forwards = [
            *(Forward(here, inside, spec.listen, spec.to, spec.protocol) for spec in wanted.inward),
            *(Forward(inside, here, spec.listen, spec.to, spec.protocol) for spec in wanted.outward),
            *(Forward(here, inside, end, None, Protocol.TCP) for end in wanted.socks),
        ]
        for family, kind in dict.fromkeys(one.needs for one in forwards if one.other is inside):
            await inside.check_allowed(family, kind)
        with contextlib.ExitStack() as stack:
            relay = Relay()
            stack.callback(relay.close)
            listeners = []
            for forward in forwards:
                listener = await Listener.open(forward, relay, progress)
                stack.callback(listener.close)
                listeners.append(listener)
            announce_ready(ready_fd)
            showing = asyncio.create_task(progress.show())
            try:
                await _run_until_one_ends([one.run() for one in listeners])
            finally:
                showing.cancel()
                await asyncio.gather(showing, return_exceptions=True)


async def _run_until_one_ends(functions: Sequence[Coroutine[None, None, object]]) -> None:
    tasks = [asyncio.create_task(function) for function in functions]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        try:
            task.result()
        except ExceptionGroup as group:
            raise _first(group) from None


def _first(error: Exception) -> Exception:
    """Return the first error in a group, which may have groups in it."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
