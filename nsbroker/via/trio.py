"""The supervisor for trio."""

import contextlib
import math
import subprocess
from collections.abc import AsyncIterator, Sequence
from typing import Any

import trio

from nsbroker.client.requests import TargetLike
from nsbroker.client.transport import DEFAULT_TIMEOUT
from nsbroker.client.trio import Broker, connect
from nsbroker.errors import ConnectionLost, Timeout
from nsbroker.linux.seccomp import Notification
from nsbroker.via.core import Answers, SocketCall
from nsbroker.via.launch import Launch
from nsbroker.via.names import Names, names_of


@contextlib.asynccontextmanager
async def open_process(
    command: str | Sequence[str],
    target: TargetLike,
    *,
    address: str | None = None,
    broker_timeout: float | None = DEFAULT_TIMEOUT,
    **options: Any,
) -> AsyncIterator[trio.Process]:
    """Start a program whose sockets are made inside `target`, and supervise it until its last process has ended.

        async with nsbroker.via.trio.open_process(["curl", "http://127.0.0.1:8080/"], "container:web") as process:
            await process.wait()

    `address` and `broker_timeout` are the arguments of `nsbroker.connect`, `options` those of
    trio.lowlevel.open_process.  When the block is left with an exception, the program is killed.  Raises the errors of
    `nsbroker.via.Popen`.
    """
    names = names_of(target)
    async with connect(address, timeout=broker_timeout) as broker:
        await names.fetch_async(broker.file)
        process, answers = await _start(command, names, options)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_supervise, answers, broker, target)
                try:
                    yield process
                    await process.wait()
                except BaseException:
                    process.kill()
                    raise
        finally:
            answers.close()
            with trio.CancelScope(shield=True):
                await process.wait()
                for pipe in (process.stdin, process.stdout, process.stderr):
                    if pipe is not None:
                        await pipe.aclose()


async def _start(command: str | Sequence[str], names: Names, options: dict[str, Any]) -> tuple[trio.Process, Answers]:
    with Launch(names) as launch:
        try:
            process = await trio.lowlevel.open_process(command, preexec_fn=launch.prepare_child, **options)
        except subprocess.SubprocessError as error:
            # The child raised an exception before execve(2).  subprocess says no more than that.
            raise launch.failure() or error from error
        try:
            return process, launch.take()
        except BaseException:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            raise


async def _supervise(answers: Answers, broker: Broker, target: TargetLike) -> None:
    """Answer all calls until the last process has ended.  Borrows the answers and the connection.

    One task receives each call at once, because until then a signal can interrupt the call.  Another one asks the broker.
    """
    send, receive = trio.open_memory_channel[Notification](math.inf)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_answer_all, answers, broker, target, receive)
        with send:
            over = False
            while not over:
                await trio.lowlevel.wait_readable(answers.fileno())
                received, over = answers.receive()
                for notification in received:
                    send.send_nowait(notification)


async def _answer_all(
    answers: Answers, broker: Broker, target: TargetLike, waiting: trio.MemoryReceiveChannel[Notification]
) -> None:
    async for notification in waiting:
        call = answers.begin(notification)
        if call is None:
            continue
        try:
            sock = await _ask(broker, target, call)
        except Exception as error:
            # Whatever it is: without an answer, the program would wait for ever.
            answers.fail(call, error)
        else:
            with sock:
                answers.give(call, sock.fileno())


async def _ask(broker: Broker, target: TargetLike, call: SocketCall) -> trio.socket.SocketType:
    try:
        return await broker.socket(target, call.family, call.type, call.protocol)
    except ConnectionLost as error:
        if isinstance(error, Timeout):
            raise
        # The broker was restarted meanwhile.  The client connects again.
        return await broker.socket(target, call.family, call.type, call.protocol)
