"""The three clients behind one async interface, and fake brokers, because the real one does not misbehave."""

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any

import nsbroker
import nsbroker.client.asyncio
import nsbroker.client.trio
from nsbroker.client import blocking
from nsbroker.client.async_broker import AsyncBroker
from nsbroker.errors import NsbrokerError
from nsbroker.model.identity import NamespaceType

Connect = Callable[..., Any]
"""A `connect` function of one of the clients."""


class BlockingClient:
    """The blocking client with async methods, so that one test can use every client."""

    def __init__(self, broker: blocking.Broker) -> None:
        self._broker = broker

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **options: Any) -> Any:
            return getattr(self._broker, name)(*args, **options)

        return call

    async def events(self) -> list[Any]:
        """Read the events of a watch until it ends with an error."""
        with self._broker.watch() as events:
            return list(events)

    async def open_each(self, targets: Iterable[Any], types: Any = ("net",), most: int | None = None) -> list[Any]:
        """Read the first `most` (None: all) items of `open_many`, as `_close_item` returns them."""
        with self._broker.open_many(targets, types) as opened:
            return [_close_item(item) for item in itertools.islice(opened, most)]


@contextlib.asynccontextmanager
async def blocking_client(address: str | None, **options: Any) -> AsyncIterator[BlockingClient]:
    with nsbroker.connect(address, **options) as broker:
        yield BlockingClient(broker)


class TrioClient:
    """The trio client, with a method that reads a whole watch."""

    def __init__(self, broker: nsbroker.client.trio.Broker) -> None:
        self._broker = broker

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    async def events(self) -> list[Any]:
        """Read the events of a watch until it ends with an error."""
        async with self._broker.watch() as events:
            return [event async for event in events]

    async def open_each(self, targets: Iterable[Any], types: Any = ("net",), most: int | None = None) -> list[Any]:
        """Read the first `most` (None: all) items of `open_many`, as `_close_item` returns them."""
        return await _open_each(self._broker, targets, types, most)


@contextlib.asynccontextmanager
async def trio_client(address: str | None, **options: Any) -> AsyncIterator[TrioClient]:
    async with nsbroker.client.trio.connect(address, **options) as broker:
        yield TrioClient(broker)


class AsyncioClient:
    """The asyncio client on an event loop of its own, on which each call runs until it is done."""

    def __init__(self, runner: asyncio.Runner, broker: nsbroker.client.asyncio.Broker) -> None:
        self._runner = runner
        self._broker = broker

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **options: Any) -> Any:
            return self._runner.run(getattr(self._broker, name)(*args, **options))

        return call

    async def events(self) -> list[Any]:
        """Read the events of a watch until it ends with an error."""

        async def read() -> list[Any]:
            async with self._broker.watch() as events:
                return [event async for event in events]

        return self._runner.run(read())

    async def open_each(self, targets: Iterable[Any], types: Any = ("net",), most: int | None = None) -> list[Any]:
        """Read the first `most` (None: all) items of `open_many`, as `_close_item` returns them."""
        return self._runner.run(_open_each(self._broker, targets, types, most))


async def _open_each(broker: AsyncBroker, targets: Iterable[Any], types: Any, most: int | None) -> list[Any]:
    items: list[Any] = []
    async with broker.open_many(targets, types) as opened:
        while len(items) != most and (item := await anext(opened, None)) is not None:
            items.append(_close_item(item))
    return items


def _close_item(item: tuple[Any, dict[NamespaceType, nsbroker.Namespace] | NsbrokerError]) -> tuple[Any, Any]:
    """Return the target with the inodes of its namespaces, or with the error.  Closes the handles."""
    target, outcome = item
    if isinstance(outcome, NsbrokerError):
        return target, outcome
    inodes = {str(ns_type): ns.inode for ns_type, ns in outcome.items()}
    for ns in outcome.values():
        ns.close()
    return target, inodes


@contextlib.asynccontextmanager
async def asyncio_client(address: str | None, **options: Any) -> AsyncIterator[AsyncioClient]:
    # pytest-trio runs the tests in a trio loop.  The asyncio loop of this Runner is independent of it.
    with asyncio.Runner() as runner:
        manager = nsbroker.client.asyncio.connect(address, **options)
        broker = runner.run(manager.__aenter__())
        try:
            yield AsyncioClient(runner, broker)
        finally:
            runner.run(manager.__aexit__(None, None, None))


CLIENTS: dict[str, Connect] = {"blocking": blocking_client, "trio": trio_client, "asyncio": asyncio_client}


@contextlib.contextmanager
def impostor(behave: Callable[[socket.socket], None]) -> Iterator[str]:
    """Run a fake broker, which calls `behave` with each connection, on a thread of its own.  Yields its address."""
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
    """Read the next call; returns b"" at the end of the connection."""
    call = b""
    while not call.endswith(b"\0"):
        piece = sock.recv(65536)
        if not piece:
            return b""
        call += piece
    return call


@contextlib.contextmanager
def impostor_elsewhere(behave: Callable[[socket.socket], None]) -> Iterator[str]:
    """Run a fake broker as `impostor` does, but in a process of its own, so that this one has only the client's descriptors."""
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
