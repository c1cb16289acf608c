"""Tasks that share a trio or asyncio client have their calls under way at once, whatever the broker or another task does."""

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

import nsbroker
import nsbroker.client.asyncio
import nsbroker.client.trio
from nsbroker.client.transport import REPLIES_MAX
from nsbroker.errors import ConnectionLost, NsbrokerError, ProtocolError, Timeout
from nsbroker.linux import ancillary, descriptors
from tests.client.every_client import impostor
from tests.client.test_hostile import OPENED, PEER, net, null
from tests.snapshot import open_files
from tests.world import Daemon, Sleeper

pytestmark = pytest.mark.once

MODULES: dict[str, Any] = {"trio": nsbroker.client.trio, "asyncio": nsbroker.client.asyncio}
TASKS = 32
EVENTS = 200
EVENT = (
    b'{"continues":true,"parameters":{"event":"added","namespaceFileDescriptor":0,'
    b'"namespace":{"type":"net","inode":%d,"device":%d,"processes":%d}}}\0'
)
Step = Callable[[], Awaitable[Any]]


class TrioTasks:
    """What the tests need of trio."""

    name = "trio"

    @staticmethod
    def run(main: Step) -> None:
        """Run `main` in an event loop of its own."""
        trio.run(main)

    @staticmethod
    async def together(steps: list[Step]) -> list[Any]:
        """Run all steps at once, and return the result or the exception of each."""
        outcomes: list[Any] = [None] * len(steps)

        async def run(number: int, step: Step) -> None:
            try:
                outcomes[number] = await step()
            except Exception as error:
                outcomes[number] = error

        async with trio.open_nursery() as nursery:
            for number, step in enumerate(steps):
                nursery.start_soon(run, number, step)
        return outcomes

    @staticmethod
    async def cancelled_after(turns: int, step: Step) -> bool:
        """Cancel `step` once other tasks had `turns` turns.  Return whether that came before its end."""
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:

                async def cancel() -> None:
                    for _ in range(turns):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()

                nursery.start_soon(cancel)
                await step()
        return scope.cancelled_caught

    @staticmethod
    async def pause() -> None:
        """Let the other tasks and threads go on."""
        await trio.sleep(0.01)


class AsyncioTasks:
    """What the tests need of asyncio."""

    name = "asyncio"

    @staticmethod
    def run(main: Callable[[], Any]) -> None:
        """Run `main` in an event loop of its own."""
        asyncio.run(main())

    @staticmethod
    async def together(steps: list[Step]) -> list[Any]:
        """Run all steps at once, and return the result or the exception of each."""
        return await asyncio.gather(*(step() for step in steps), return_exceptions=True)

    @staticmethod
    async def cancelled_after(turns: int, step: Step) -> bool:
        """Cancel `step` once other tasks had `turns` turns.  Return whether that came before its end."""
        task = asyncio.ensure_future(step())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return True
        return False

    @staticmethod
    async def pause() -> None:
        """Let the other tasks and threads go on."""
        await asyncio.sleep(0.01)


@pytest.fixture(params=[TrioTasks, AsyncioTasks], ids=["trio", "asyncio"])
def tasks(request: pytest.FixtureRequest) -> Any:
    return request.param


def opening(broker: Any, pid: int) -> Step:
    async def step() -> int:
        with await broker.open(f"pid:{pid}", "net") as ns:
            return int(ns.inode)

    return step


def read_calls(sock: socket.socket, count: int) -> int:
    """Read `count` calls, or up to the end of the connection, and return how many there were."""
    seen = 0
    while seen < count and (piece := sock.recv(1 << 16)):
        seen += piece.count(b"\0")
    return seen


def networks() -> int:
    """Return how many descriptors of network namespaces this process has."""
    return sum(target.startswith("net:") for _, target in open_files(os.getpid()))


def send_net(sock: socket.socket, data: bytes = OPENED % 0, count: int = 1) -> None:
    fds = [net() for _ in range(count)]
    try:
        ancillary.send(sock, data, fds)
    finally:
        descriptors.close_all(fds)


def test_calls_are_under_way_at_once_and_each_task_gets_its_own_reply(tasks: Any) -> None:
    """The fake broker replies only after it has all calls, which the real one has no reason to do."""
    uids = {str(number): number for number in range(TASKS)}

    def behave(sock: socket.socket) -> None:
        assert read_calls(sock, TASKS) == TASKS
        for number in uids.values():
            sock.sendall(PEER.replace(b'"uid":1', b'"uid":%d' % number))

    async def main() -> None:
        async with MODULES[tasks.name].connect(address) as broker:
            order: list[int] = []

            def step(number: int) -> Step:
                async def ask() -> int:
                    order.append(number)
                    return int((await broker.who_am_i()).uid)

                return ask

            outcomes = await tasks.together([step(number) for number in range(TASKS)])
            # trio starts tasks in an arbitrary order.
            assert [outcomes[number] for number in order] == list(range(TASKS))

    with impostor(behave) as address:
        tasks.run(main)


def test_each_task_gets_what_it_asked_for(tasks: Any, daemon: Daemon) -> None:
    async def main() -> None:
        async with MODULES[tasks.name].connect(daemon.address) as broker:

            def many(sleeper: Sleeper) -> Step:
                async def ask() -> set[int]:
                    return {await opening(broker, sleeper.pid)() for _ in range(10)}

                return ask

            outcomes = await tasks.together([many(sleepers[number % 3]) for number in range(TASKS)])
            assert outcomes == [{sleepers[number % 3].inode("net")} for number in range(TASKS)]

    with Sleeper() as one, Sleeper() as two, Sleeper() as three:
        sleepers = [one, two, three]
        tasks.run(main)


def test_more_descriptors_than_one_connection_may_leave_unread(tasks: Any, daemon: Daemon, sleeper: Sleeper) -> None:
    async def main() -> None:
        async with MODULES[tasks.name].connect(daemon.address) as broker:

            async def ask() -> int:
                opened = await broker.open_all(f"pid:{sleeper.pid}")
                for ns in opened.values():
                    ns.close()
                return len(opened)

            outcomes = await tasks.together([ask] * 100)
            assert min(outcomes) == max(outcomes) > 5

    tasks.run(main)


def test_errors_of_the_broker_concern_one_call(tasks: Any, daemon: Daemon, sleeper: Sleeper) -> None:
    async def main() -> None:
        async with MODULES[tasks.name].connect(daemon.address) as broker:
            good, bad = opening(broker, sleeper.pid), opening(broker, 2**22 - 1)
            outcomes = await tasks.together([good, bad] * 16)
            assert set(outcomes[::2]) == {sleeper.inode("net")}
            assert {type(outcome) for outcome in outcomes[1::2]} <= {nsbroker.errors.NoSuchTarget, nsbroker.errors.PermissionDenied}

    tasks.run(main)


def test_a_call_is_cancelled_at_every_await_and_the_others_get_their_replies(tasks: Any, daemon: Daemon, sleeper: Sleeper) -> None:
    inode = sleeper.inode("net")

    async def main() -> None:
        async with MODULES[tasks.name].connect(daemon.address) as broker:
            connection = broker._transport.sock
            for others in (0, 1, 5):
                for turns in range(12):
                    ask = opening(broker, sleeper.pid)

                    async def cancelled(turns: int = turns, ask: Step = ask) -> None:
                        await tasks.cancelled_after(turns, ask)

                    outcomes = await tasks.together([ask] * others + [cancelled] + [ask] * others)
                    assert [outcome for outcome in outcomes if outcome is not None] == [inode] * (2 * others), outcomes
            assert await opening(broker, sleeper.pid)() == inode
            assert broker._transport.sock is connection, "a cancelled call ended the connection"
            assert not broker._transport.busy

    tasks.run(main)


@pytest.mark.parametrize("further_call", [True, False])
def test_the_reply_to_a_cancelled_call_is_received_and_closed(tasks: Any, further_call: bool) -> None:
    answer, seen = threading.Event(), threading.Event()

    def behave(sock: socket.socket) -> None:
        read_calls(sock, 1)
        seen.set()
        answer.wait()
        send_net(sock)
        if read_calls(sock, 1):
            sock.sendall(PEER)

    async def main() -> None:
        async with MODULES[tasks.name].connect(address) as broker:

            async def ask() -> None:
                await broker.open("self", "net")

            # The first turn of a call sends it.
            assert await tasks.cancelled_after(5, ask)
            while not seen.is_set():
                await tasks.pause()
            before = networks()
            answer.set()
            if further_call:
                assert (await broker.who_am_i()).uid == 1
                assert not broker._transport.busy
                assert networks() == before

    with impostor(behave) as address:
        try:
            tasks.run(main)
        finally:
            answer.set()


def test_replies_without_end_to_a_cancelled_call_do_not_keep_the_next_one_waiting(tasks: Any) -> None:
    endless = threading.Event()
    reply = b'{"continues":true,"parameters":{"text":"%s"}}\0' % (b"x" * 60000)

    def behave(sock: socket.socket) -> None:
        read_calls(sock, 1)
        endless.wait()
        with contextlib.suppress(OSError):
            # A client that has no limit finds that the connection has ended.
            for _ in range(2 * REPLIES_MAX // len(reply)):
                sock.sendall(reply)

    async def main() -> None:
        async with MODULES[tasks.name].connect(address) as broker:
            assert await tasks.cancelled_after(5, broker.list)
            endless.set()
            with pytest.raises(ProtocolError, match="replies take more than"):
                await broker.who_am_i()

    with impostor(behave) as address:
        try:
            tasks.run(main)
        finally:
            endless.set()


def test_a_call_that_is_cancelled_when_part_of_it_is_sent_is_sent_to_its_end(tasks: Any) -> None:
    """The fake broker reads nothing until the call is cancelled, so that only a part of it can be sent."""
    read = threading.Event()
    calls: list[bytes] = []

    def behave(sock: socket.socket) -> None:
        read.wait()
        data = b""
        while data.count(b"\0") < 2:
            data += sock.recv(1 << 16)
        calls.extend(data.split(b"\0")[:2])
        sock.sendall(b'{"error":"org.varlink.service.PermissionDenied"}\0' + PEER)

    async def main() -> None:
        async with MODULES[tasks.name].connect(address) as broker:
            broker._transport.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)

            async def long() -> None:
                await broker.explain("self", devices=["x" * 200] * 250)

            assert await tasks.cancelled_after(20, long)
            assert broker._transport.wants_to_send
            read.set()
            assert (await broker.who_am_i()).uid == 1
            assert not broker._transport.busy

    with impostor(behave) as address:
        try:
            tasks.run(main)
        finally:
            read.set()
    assert calls[0].count(b"x" * 200) == 250
    assert b"WhoAmI" in calls[1]


def test_a_long_call_is_sent_while_replies_are_received(tasks: Any) -> None:
    """The fake broker reads on only after its replies were read, as brokers do that limit what is unread."""

    def behave(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        read_calls(sock, 1)
        sock.sendall(PEER[:-1] + b" " * 60000 + b"\0")
        read_calls(sock, 1)
        sock.sendall(b'{"error":"org.varlink.service.PermissionDenied"}\0')

    async def main() -> None:
        async with MODULES[tasks.name].connect(address) as broker:
            broker._transport.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)

            async def long() -> None:
                await tasks.pause()
                await broker.explain("self", devices=["x" * 200] * 250)

            peer, error = await tasks.together([broker.who_am_i, long])
            assert peer.uid == 1
            assert isinstance(error, nsbroker.errors.PermissionDenied)

    with impostor(behave) as address:
        tasks.run(main)


def hang_up(sock: socket.socket) -> None:
    """Reply to five calls of many, and hang up."""
    read_calls(sock, TASKS)
    for _ in range(5):
        send_net(sock)


def hang_up_in_a_reply(sock: socket.socket) -> None:
    """Hang up in the middle of a reply with descriptors."""
    hang_up(sock)
    send_net(sock, (OPENED % 0)[:20], 10)


def hang_up_without_reading(sock: socket.socket) -> None:
    """Hang up before the calls are read."""
    sock.recv(1)


def fall_silent(sock: socket.socket) -> None:
    """Reply to five calls of many, and to no other."""
    hang_up(sock)
    while sock.recv(1 << 16):
        pass


def fall_silent_at_once(sock: socket.socket) -> None:
    """Never reply."""
    while sock.recv(1 << 16):
        pass


def then_all(sock: socket.socket) -> None:
    """Reply to as many calls as there could be, after the bad reply."""
    with contextlib.suppress(OSError):
        for _ in range(TASKS):
            send_net(sock)


def too_many_fds(sock: socket.socket) -> None:
    """Send far too many descriptors with one of the replies."""
    hang_up(sock)
    send_net(sock, count=253)
    then_all(sock)


def too_few_fds(sock: socket.socket) -> None:
    """Send a reply without its descriptor."""
    hang_up(sock)
    sock.sendall(OPENED % 0)
    then_all(sock)


def no_namespace(sock: socket.socket) -> None:
    """Send something else than a namespace."""
    hang_up(sock)
    fd = null()
    ancillary.send(sock, OPENED % 0, [fd])
    os.close(fd)
    then_all(sock)


def out_of_order(sock: socket.socket) -> None:
    """Reply with what belongs to another call."""
    hang_up(sock)
    sock.sendall(PEER)
    then_all(sock)


def too_many_replies(sock: socket.socket) -> None:
    """Reply twice to the last call, in one piece."""
    read_calls(sock, TASKS)
    for _ in range(TASKS - 1):
        send_net(sock)
    sock.sendall(b'{"error":"org.varlink.service.PermissionDenied"}\0' * 2)


def continue_wrongly(sock: socket.socket) -> None:
    """Say that further replies follow, to a call that gets one."""
    hang_up(sock)
    sock.sendall(b'{"continues":true}\0')
    then_all(sock)


def garbage(sock: socket.socket) -> None:
    """Send something that is no reply."""
    hang_up(sock)
    send_net(sock, b"garbage\0", 3)
    then_all(sock)


BAD: dict[Callable[[socket.socket], None], tuple[type[Exception], int]] = {
    hang_up: (ConnectionLost, 27), hang_up_in_a_reply: (ConnectionLost, 27), hang_up_without_reading: (ConnectionLost, 32),
    fall_silent: (Timeout, 27), fall_silent_at_once: (Timeout, 32), too_many_fds: (ProtocolError, 1),
    too_few_fds: (ProtocolError, 1), no_namespace: (ProtocolError, 1), out_of_order: (ProtocolError, 1),
    too_many_replies: (ProtocolError, 1), continue_wrongly: (ProtocolError, 27), garbage: (ProtocolError, 27),
}  # fmt: skip
"""What a bad broker does, the error that it causes, and how many of the tasks have it at least."""


@pytest.mark.parametrize("behave", BAD, ids=lambda behave: behave.__name__)
def test_a_bad_broker_fails_each_task_that_waits_and_no_descriptor_leaks(tasks: Any, behave: Any) -> None:
    error, least = BAD[behave]

    async def main() -> None:
        async with MODULES[tasks.name].connect(address, timeout=1.0 if error is Timeout else 60) as broker:

            async def ask() -> None:
                (await broker.open("self", "net")).close()

            outcomes = await tasks.together([ask] * TASKS)
            failed = [outcome for outcome in outcomes if outcome is not None]
            assert len({id(outcome) for outcome in failed}) == len(failed), "tasks share an exception"
            assert all(isinstance(outcome, NsbrokerError) and "open net of self" in str(outcome) for outcome in failed), failed
            assert sum(isinstance(outcome, error) for outcome in failed) >= least, outcomes
            assert not broker._transport.busy

    with impostor(behave) as address:
        tasks.run(main)


def test_what_is_overdue_and_was_cancelled_costs_the_next_call_a_new_connection(tasks: Any) -> None:
    connections: list[socket.socket] = []

    def behave(sock: socket.socket) -> None:
        connections.append(sock)
        while read_calls(sock, 1):
            if len(connections) > 1:
                sock.sendall(PEER)

    async def main() -> None:
        async with MODULES[tasks.name].connect(address, timeout=60) as broker:

            async def ask() -> None:
                await broker.who_am_i()

            assert await tasks.cancelled_after(5, ask)
            assert broker._transport.busy
            broker._transport.since -= 61
            assert (await broker.who_am_i()).uid == 1
            assert len(connections) == 2

    with impostor(behave) as address:
        tasks.run(main)


def test_closing_the_client_fails_all_tasks(tasks: Any, silent: str) -> None:
    async def main() -> None:
        async with MODULES[tasks.name].connect(silent) as broker:

            async def close() -> None:
                await tasks.pause()
                broker.close()

            *outcomes, _ = await tasks.together([broker.who_am_i] * TASKS + [close])
            assert all(isinstance(outcome, ConnectionLost) and "closed meanwhile" in str(outcome) for outcome in outcomes), outcomes

    tasks.run(main)


def test_a_restricted_client_is_restricted_before_the_calls_of_all_tasks(tasks: Any, daemon: Daemon, sleeper: Sleeper) -> None:
    async def main() -> None:
        async with MODULES[tasks.name].connect(daemon.address) as broker:
            await broker.restrict([f"pid:{sleeper.pid}"], namespaces=["uts"])
            for _ in range(2):
                outcomes = await tasks.together([opening(broker, sleeper.pid)] * 8)
                assert {type(outcome) for outcome in outcomes} == {nsbroker.errors.PermissionDenied}
                (await broker.open(f"pid:{sleeper.pid}", "uts")).close()
                # The next calls of all tasks find that the connection has ended.
                broker._transport.sock.shutdown(socket.SHUT_RDWR)

    tasks.run(main)


def test_detaching_waits_for_what_is_under_way(tasks: Any, daemon: Daemon, sleeper: Sleeper) -> None:
    async def main() -> None:
        async with MODULES[tasks.name].connect(daemon.address) as broker:

            async def detach() -> int:
                await tasks.pause()
                return int(await broker.detach())

            ask = opening(broker, sleeper.pid)
            await tasks.cancelled_after(1, ask)
            *outcomes, fd = await tasks.together([ask] * 5 + [detach])
            assert outcomes == [sleeper.inode("net")] * 5
        async with MODULES[tasks.name].connect(fd=fd) as other:
            assert await opening(other, sleeper.pid)() == sleeper.inode("net")

    tasks.run(main)


def test_a_cancelled_wait_for_an_event_loses_no_event_and_no_descriptor(tasks: Any) -> None:
    """The fake broker sends events at the moments at which waits are cancelled, and the real one only when something happens."""
    own = os.stat("/proc/self/ns/net")
    seen: list[int] = []
    # At first no event comes, so the first waits are all cancelled.
    go_on = threading.Event()

    def behave(sock: socket.socket) -> None:
        read_calls(sock, 1)
        go_on.wait()
        for number in range(1, EVENTS + 1):
            send_net(sock, EVENT % (own.st_ino, own.st_dev, number))
            time.sleep(0.001 * (number % 3))

    async def main() -> None:
        cancelled = turns = 0
        async with MODULES[tasks.name].connect(address) as broker, broker.watch(["net"], open=["net"]) as events:

            async def wait() -> None:
                event = await anext(events)
                event.handle.close()
                seen.append(event.namespace.processes)

            while len(seen) < EVENTS:
                turns += 1
                cancelled += await tasks.cancelled_after(turns % 8, wait)
                if cancelled == 50:
                    go_on.set()
        assert seen == list(range(1, EVENTS + 1))
        assert cancelled >= 50

    before = networks()
    with impostor(behave) as address:
        try:
            tasks.run(main)
        finally:
            go_on.set()
    assert networks() == before


def test_a_cancelled_wait_leaves_a_watch_of_the_real_broker_as_it_is(tasks: Any, daemon: Daemon) -> None:
    async def main() -> None:
        async with MODULES[tasks.name].connect(daemon.address) as broker, broker.watch(["uts"], open=["uts"]) as events:
            while (event := await anext(events)).event != "ready":
                # Another process's namespace can be gone before it is opened.
                if event.handle is not None:
                    event.handle.close()
            assert await tasks.cancelled_after(5, lambda: anext(events))
            with Sleeper(unshare="--uts") as sleeper:
                while (event := await anext(events)).namespace.inode != sleeper.inode("uts"):
                    if event.handle is not None:
                        event.handle.close()
                assert event.event == "added"
                event.handle.close()

    tasks.run(main)
