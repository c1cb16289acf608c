"""The three fronts under one manner, and brokers that are made up because the real one does not misbehave."""

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import nsbroker
import nsbroker.client.asyncio
import nsbroker.client.trio
from nsbroker.client import blocking

Front = Callable[..., Any]


class Awaited:
    """The blocking front under the manners of the others, so that one test serves all."""

    def __init__(self, broker: blocking.Broker) -> None:
        self._broker = broker

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **options: Any) -> Any:
            return getattr(self._broker, name)(*args, **options)

        return call

    async def events(self) -> list[Any]:
        """All events of a watch, until it ends with an error."""
        with self._broker.watch() as events:
            return list(events)


@contextlib.asynccontextmanager
async def awaited(address: str | None, **options: Any) -> AsyncIterator[Awaited]:
    with nsbroker.connect(address, **options) as broker:
        yield Awaited(broker)


class OnTrio:
    """The trio front, and all events of a watch."""

    def __init__(self, broker: nsbroker.client.trio.Broker) -> None:
        self._broker = broker

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    async def events(self) -> list[Any]:
        """All events of a watch, until it ends with an error."""
        async with self._broker.watch() as events:
            return [event async for event in events]


@contextlib.asynccontextmanager
async def on_trio(address: str | None, **options: Any) -> AsyncIterator[OnTrio]:
    async with nsbroker.client.trio.connect(address, **options) as broker:
        yield OnTrio(broker)


class OnAsyncio:
    """The asyncio front on a loop of its own, each call of it run to its end, so that one test serves all."""

    def __init__(self, runner: asyncio.Runner, broker: nsbroker.client.asyncio.Broker) -> None:
        self._runner = runner
        self._broker = broker

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **options: Any) -> Any:
            return self._runner.run(getattr(self._broker, name)(*args, **options))

        return call

    async def events(self) -> list[Any]:
        """All events of a watch, until it ends with an error."""

        async def read() -> list[Any]:
            async with self._broker.watch() as events:
                return [event async for event in events]

        return self._runner.run(read())


@contextlib.asynccontextmanager
async def on_asyncio(address: str | None, **options: Any) -> AsyncIterator[OnAsyncio]:
    # pytest-trio runs the tests; the loop that asyncio.Runner sets up beside it is not trio's concern.
    with asyncio.Runner() as runner:
        manager = nsbroker.client.asyncio.connect(address, **options)
        broker = runner.run(manager.__aenter__())
        try:
            yield OnAsyncio(runner, broker)
        finally:
            runner.run(manager.__aexit__(None, None, None))


FRONTS: dict[str, Front] = {"blocking": awaited, "trio": on_trio, "asyncio": on_asyncio}


@contextlib.contextmanager
def impostor(behave: Callable[[socket.socket], None]) -> Iterator[str]:
    """The address of a server that lets `behave` do what it likes with each connection, a thread each."""
    path = f"/run/impostor-{os.getpid()}"
    threads: list[threading.Thread] = []
    connections: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            connections.append(sock)
            threads.append(threading.Thread(target=_converse, args=(behave, sock)))
            threads[-1].start()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield f"unix:{path}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for sock in connections:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()
            os.unlink(path)


def _converse(behave: Callable[[socket.socket], None], sock: socket.socket) -> None:
    with sock, contextlib.suppress(OSError):
        behave(sock)


def read_call(sock: socket.socket) -> bytes:
    """The next call that comes; nothing at the end."""
    call = b""
    while not call.endswith(b"\0"):
        piece = sock.recv(65536)
        if not piece:
            return b""
        call += piece
    return call


@contextlib.contextmanager
def impostor_elsewhere(behave: Callable[[socket.socket], None]) -> Iterator[str]:
    """As `impostor`, in a process of its own: this one has no descriptors but those of the client."""
    path = f"/run/impostor-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        child = os.fork()
        if child == 0:
            try:
                while True:
                    threading.Thread(target=_converse, args=(behave, listener.accept()[0]), daemon=True).start()
            finally:
                os._exit(1)
    try:
        yield f"unix:{path}"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.unlink(path)
