"""Calls that fail leave nothing in memory for the garbage collector.

The broker makes full collections rare, so what only they free uses memory for minutes.
"""

import contextlib
import errno
import os
import socket
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from nsbroker.daemon.engines.query import query_each
from nsbroker.daemon.engines.registry import EngineRegistry
from nsbroker.daemon.limits.abandonable_threads import AbandonableThreads
from nsbroker.daemon.limits.fair_queue import Turn
from nsbroker.daemon.methods.call import Reply
from nsbroker.daemon.outbox import Outbox, ReadingTime
from nsbroker.daemon.server import Server
from nsbroker.errors import EngineUnavailable
from nsbroker.linux import descriptors
from nsbroker.model.identity import NamespaceType
from nsbroker.model.target import ENGINES
from nsbroker.namespace import creation
from nsbroker.varlink.connection import IncomingCall, ServerConnection
from nsbroker.varlink.message import decode_call
from tests.daemon.one_caller import OneCaller
from tests.snapshot import no_garbage
from tests.world import PATIENCE, Sleeper

RULE = """[[allow]]
name = "all"
who = "everyone"
targets = ["{}"]
namespaces = ["*"]
sockets = ["*"]
interfaces = ["*"]
devices = ["*"]
files = ["*"]
create = ["*"]
hold = ["*"]
"""


@pytest.fixture(params=["pid:*"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OneCaller]:
    bench = OneCaller(tmp_path, RULE.format(request.param))
    yield bench
    bench.close()


for_everything = pytest.mark.parametrize("bench", ["*"], indirect=True)


async def ask(bench: OneCaller, method: str, parameters: dict[str, Any]) -> Reply:
    data = msgspec.json.encode({"method": f"io.nsbroker.Broker.{method}", "parameters": parameters})
    result = bench.dispatcher.dispatch(bench.caller, IncomingCall(decode_call(data), []))
    reply = await result if isinstance(result, Coroutine) else result
    assert isinstance(reply, Reply)
    return reply


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "no such process": ("Open", {"target": {"pid": 4_000_000}, "types": ["net"]}),
    "no rule": ("Open", {"target": {"name": "nothing"}, "types": ["net"]}),
    "no target": ("Open", {"target": {}, "types": ["net"]}),
    "no such method": ("Nothing", {}),
    "no such protocol": ("OpenSocket", {"target": {"pid": 0}, "family": "inet", "type": "stream", "protocol": 1234}),
    "no pattern": ("Restrict", {"targets": ["nothing:at:all"], "namespaces": ["net"]}),
    "no socket": ("Restrict", {"targets": ["*"], "sockets": ["smoke:signal"]}),
    "no such device": ("OpenDevice", {"target": {"pid": 0}, "name": "nothing", "access": "read"}),
    "no such file": ("OpenFile", {"target": {"pid": 0}, "name": "net/nothing"}),
    "a file that is not there": ("OpenFile", {"target": {"pid": 0}, "name": "net/anycast6"}),
    "nobody": ("Explain", {"target": {"pid": 0}, "types": ["net"], "who": ["user:nobody-at-all"]}),
    "a type twice": ("Explain", {"target": {"pid": 0}, "types": ["net", "net"]}),
    "no process to hold": ("Hold", {"target": {"pid": 4_000_000}, "name": "held"}),
    "no name": ("Create", {"types": ["net"], "name": "a/b"}),
    "no type": ("Create", {"types": []}),
    "no unit": ("Open", {"target": {"unit": "nothing-at-all.service"}, "types": ["net"]}),
    "no path": ("Open", {"target": {"path": "/nothing/at/all"}, "types": ["net"]}),
    "no namespace": ("Open", {"target": {"namespace": "net:[1]"}, "types": ["net"]}),
    "an interface that is there": ("AddInterface", {"target": {"pid": 0}, "kind": "tap", "name": "lo"}),
    "not what was expected": ("Open", {"target": {"pid": 0}, "types": ["net"], "expect": {"inode": 1}}),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_refused_call_leaves_nothing(bench: OneCaller, case: str) -> None:
    method, parameters = REFUSED[case]
    with Sleeper("--net --uts --ipc setpriv --bounding-set=-all --inh-caps=-all") as sleeper:
        if parameters.get("target") == {"pid": 0}:
            parameters = {**parameters, "target": {"pid": sleeper.pid}}
        # The first socket of a kind is made on a thread.
        made = {"target": {"pid": sleeper.pid}, "family": "inet", "type": "stream"}
        descriptors.close_all((await ask(bench, "OpenSocket", made)).fds)
        await ask(bench, method, parameters)
        with no_garbage():
            for _ in range(10):
                assert (await ask(bench, method, parameters)).error is not None


@for_everything
async def test_the_release_of_a_name_under_which_nothing_is_held_leaves_nothing(bench: OneCaller) -> None:
    await ask(bench, "Release", {"name": "nothing"})
    with no_garbage():
        assert (await ask(bench, "Release", {"name": "nothing"})).error == "io.nsbroker.Broker.NoSuchTarget"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[socket.socket]:
    """A docker that accepts no connection unless the test does.  No real one can be told to fail."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "docker.sock"))
        yield listener


@pytest.mark.parametrize("target", [{"container": "web", "engine": "docker"}, {"container": "web"}], ids=["docker", "container"])
@pytest.mark.parametrize("case", ["no room", "silent", "hangs up"])
@for_everything
async def test_a_call_for_which_an_engine_fails_leaves_nothing(
    bench: OneCaller, engine: socket.socket, case: str, target: dict[str, str]
) -> None:
    places: dict[str, list[str]] = {**{name: [] for name in ENGINES}, "docker": [str(engine.getsockname())]}
    bench.context.engines = EngineRegistry(places, 0.05, bench.context.threads)
    parameters = {"target": target, "types": ["net"]}
    engine.listen(0 if case == "no room" else 16)

    async def hang_up() -> None:
        while True:
            await trio.lowlevel.wait_readable(engine)
            engine.accept()[0].close()

    async with trio.open_nursery() as nursery:
        if case == "hangs up":
            nursery.start_soon(hang_up)
        with contextlib.ExitStack() as stack:
            if case == "no room":
                stack.enter_context(socket.socket(socket.AF_UNIX)).connect(engine.getsockname())
            await ask(bench, "Open", parameters)
            with no_garbage():
                for _ in range(3):
                    assert (await ask(bench, "Open", parameters)).error == EngineUnavailable.wire_name
        nursery.cancel_scope.cancel()


def test_a_namespace_that_cannot_be_created_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of the kernel (user.max_net_namespaces) is for the whole machine, so the system call is replaced."""

    def fail(flags: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def create() -> None:
        with pytest.raises(OSError, match="No space left"):
            creation.create(NamespaceType.NET)

    monkeypatch.setattr(creation, "unshare", fail)
    create()
    with no_garbage():
        for _ in range(3):
            create()


async def test_an_error_on_a_thread_leaves_nothing() -> None:
    threads = AbandonableThreads(8)

    def fail() -> None:
        raise FileNotFoundError("no such device")

    async def run() -> None:
        with pytest.raises(FileNotFoundError):
            await threads.run(1, "device", 5, fail, lambda _: None)

    await run()
    with no_garbage():
        for _ in range(3):
            await run()


async def test_an_error_on_a_thread_that_was_given_up_leaves_nothing() -> None:
    threads = AbandonableThreads(8)

    async def run() -> None:
        go_on, over = threading.Event(), threading.Event()

        def fail() -> None:
            go_on.wait(PATIENCE)
            over.set()
            raise FileNotFoundError("no such device")

        with pytest.raises(trio.TooSlowError):
            await threads.run(1, "device", 0.01, fail, lambda _: None)
        go_on.set()
        await trio.to_thread.run_sync(over.wait, PATIENCE)
        while threads._slots:
            await trio.sleep(0.001)

    await run()
    with no_garbage():
        for _ in range(3):
            await run()


async def test_errors_of_many_requests_at_a_time_leave_nothing() -> None:
    async def fail(number: int) -> None:
        raise EngineUnavailable("docker", str(number))

    async def run() -> None:
        with pytest.raises(EngineUnavailable):
            await query_each(fail, range(8))

    await run()
    with no_garbage():
        await run()


@for_everything
async def test_a_peer_that_does_not_read_leaves_nothing(bench: OneCaller) -> None:
    users = bench.context.users
    users.limits = msgspec.structs.replace(users.limits, reply_deadline=0.02)

    async def run() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            charge = users.admit(1001, ours)
            connection = ServerConnection()
            outbox = Outbox(charge, connection, users, ReadingTime(users))
            connection.receive(b'{"method":"a.b.C"}\0', [])
            call = connection.next_call()
            assert call
            outbox.add(call, Reply({"text": "x" * 10**6}))
            turn = Turn(Server(bench.dispatcher, users, bench.context.audit)._queue, 1001)
            turn.resume()
            with pytest.raises(trio.TooSlowError):
                await outbox.send_all(turn)
            outbox.close()
            connection.close()
            users.give_back(charge)

    await run()
    with no_garbage():
        for _ in range(3):
            await run()


@for_everything
async def test_a_stream_whose_reader_hangs_up_leaves_nothing(bench: OneCaller) -> None:
    users = bench.context.users
    server = Server(bench.dispatcher, users, bench.context.audit)

    async def stream() -> AsyncGenerator[Reply, None]:
        yield Reply({"number": 1}, continues=True)
        await trio.sleep_forever()

    async def run() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        charge = users.admit(1001, ours)
        connection = ServerConnection()
        connection.receive(b'{"method":"a.b.C","more":true}\0', [])
        call = connection.next_call()
        assert call
        turn = Turn(server._queue, 1001)
        outbox = Outbox(charge, connection, users, ReadingTime(users))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hang_up, theirs)
            with pytest.raises(ConnectionResetError):
                await server._send_stream(ours, outbox, call, stream(), turn)
        outbox.close()
        connection.close()
        users.give_back(charge)

    async def hang_up(sock: socket.socket) -> None:
        await trio.testing.wait_all_tasks_blocked()
        sock.close()

    await run()
    with no_garbage():
        for _ in range(3):
            await run()
