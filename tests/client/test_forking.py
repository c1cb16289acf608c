"""Clients can be used in forked processes."""

import asyncio
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import trio

import nsbroker
import nsbroker.client.asyncio
import nsbroker.client.trio
from nsbroker.client.async_methods import AsyncWatch
from nsbroker.errors import ConnectionLost
from tests.world import PATIENCE, Daemon, Sleeper


def in_child(function: Callable[[], Any]) -> Any:
    """Run `function` in a forked child, and return its result or its error as text.  It has PATIENCE seconds."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            import signal

            signal.alarm(round(PATIENCE))
            try:
                outcome: Any = function()
            except BaseException as error:
                outcome = f"{type(error).__name__}: {error}"
            os.write(write, pickle.dumps(outcome))
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as file:
        data = file.read()
    os.waitpid(child, 0)
    assert data, "the child hung"
    return pickle.loads(data)


def pid_at_broker(broker: nsbroker.Broker) -> int:
    return broker.who_am_i().pid


def test_a_child_has_a_connection_of_its_own_and_the_parents_stays(daemon: Daemon) -> None:
    with daemon.connect() as broker:
        assert pid_at_broker(broker) == os.getpid()
        number = broker._transport.sock.fileno()

        def child() -> bool:
            return pid_at_broker(broker) == os.getpid() and [pid_at_broker(broker) for _ in range(3)] == [os.getpid()] * 3

        assert in_child(child) is True
        assert pid_at_broker(broker) == os.getpid()
        # It is still the same connection.
        assert broker._transport.sock.fileno() == number
        with broker.open("self", "net") as ns:
            assert ns.inode == os.stat("/proc/self/ns/net").st_ino


def test_closing_in_the_child_leaves_the_parents_alone(daemon: Daemon) -> None:
    with daemon.connect() as broker:
        assert in_child(broker.close) is None
        assert broker.who_am_i().pid == os.getpid()
        assert in_child(lambda: pid_at_broker(broker) == os.getpid()) is True


def test_a_lock_that_another_thread_holds_does_not_stop_the_child(daemon: Daemon) -> None:
    with daemon.connect() as broker:
        held, done = threading.Event(), threading.Event()

        def hold() -> None:
            with broker._lock:
                held.set()
                done.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        try:
            assert in_child(lambda: pid_at_broker(broker) == os.getpid()) is True
        finally:
            done.set()
            thread.join()


def test_a_watch_is_over_in_the_child_and_goes_on_in_the_parent(daemon: Daemon) -> None:
    with daemon.connect() as broker, broker.watch(["net"]) as events:
        first = next(events)

        def child() -> None:
            with events:
                next(events)

        assert in_child(lambda: next(events)).startswith("ConnectionLost: watch namespaces: this watch belongs to the process")
        assert first.event == "present"
        while next(events).event != "ready":
            pass


def test_an_asyncio_client_in_a_child(daemon: Daemon) -> None:
    async def main() -> None:
        async with nsbroker.client.asyncio.connect(daemon.address) as broker:
            await broker.who_am_i()
            async with broker.watch(["net"]) as events:
                await anext(events)

                def child() -> Any:
                    async def ask() -> Any:
                        with pytest.raises(ConnectionLost, match="belongs to the process"):
                            await anext(events)
                        is_right = (await broker.who_am_i()).pid == os.getpid()
                        broker.close()
                        return is_right

                    # The child has inherited the mark that an event loop is running.
                    asyncio.events._set_running_loop(None)
                    return asyncio.run(ask())

                assert in_child(child) is True
                while (await anext(events)).event != "ready":
                    pass
            assert (await broker.who_am_i()).pid == os.getpid()

    asyncio.run(main())


def test_a_trio_client_in_a_child(daemon: Daemon) -> None:
    async def begin() -> tuple[nsbroker.client.trio.Broker, AsyncWatch]:
        # Without its context manager, which would close it at the end of this trio run.
        path = daemon.socket
        broker = nsbroker.client.trio.Broker(await nsbroker.client.trio.Broker._connect(path, PATIENCE), path, PATIENCE)
        events = await broker.watch(["net"]).__aenter__()
        await anext(events)
        return broker, events

    broker, events = trio.run(begin)

    def child() -> Any:
        async def ask() -> Any:
            with pytest.raises(ConnectionLost, match="belongs to the process"):
                await anext(events)
            return (await broker.who_am_i()).pid == os.getpid()

        return trio.run(ask)

    async def go_on() -> None:
        assert (await broker.who_am_i()).pid == os.getpid()
        while (await anext(events)).event != "ready":
            pass
        events.close()
        broker.close()

    assert in_child(child) is True
    trio.run(go_on)


_shared: nsbroker.Broker
_expected: dict[str, int]


def _open_and_compare(number: int) -> bool:
    target, inode = list(_expected.items())[number % len(_expected)]
    with _shared.open(target, "net") as ns:
        return ns.inode == inode


def test_workers_that_share_one_object_get_what_each_asked_for(daemon: Daemon) -> None:
    global _shared, _expected
    with Sleeper() as one, Sleeper() as two, Sleeper() as three, daemon.connect() as broker:
        _shared, _expected = broker, {f"pid:{each.pid}": each.inode("net") for each in (one, two, three)}
        broker.who_am_i()
        with multiprocessing.get_context("fork").Pool(4) as pool:
            right = pool.map_async(_open_and_compare, range(500), chunksize=1)
            for number in range(100):
                assert _open_and_compare(number)
            assert right.get(2 * PATIENCE) == [True] * 500
            pool.close()
            pool.join()
