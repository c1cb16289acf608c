"""A restricted client never uses a connection that is not restricted."""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable

import msgspec
import pytest

import nsbroker
import nsbroker.client.asyncio
import nsbroker.client.trio
from nsbroker.errors import (
    ConnectionLost,
    InvalidParameter,
    InvalidType,
    MethodNotFound,
    PermissionDenied,
    QuotaExceeded,
)
from tests.client.every_client import CLIENTS, Connect, impostor, read_call
from tests.client.test_forking import in_child
from tests.world import Daemon, eventually

NOTHING = b"{}\0"
WHO = b'{"parameters":{"peer":{"uid":1,"gid":1,"groups":[],"pid":1,"anonymous":false}}}\0'
FULL = b'{"error":"io.nsbroker.Broker.QuotaExceeded","parameters":{"limit":"connections"}}\0'
UNKNOWN = b'{"error":"org.varlink.service.MethodNotFound","parameters":{"method":"io.nsbroker.Broker.Restrict"}}\0'
INVALID = b'{"error":"org.varlink.service.InvalidParameter","parameters":{"parameter":"targets"}}\0'


@pytest.fixture(params=CLIENTS)
def connect(request: pytest.FixtureRequest) -> Connect:
    return CLIENTS[request.param]


async def test_a_client_restricts_itself_again_after_a_restart_of_the_broker(connect: Connect, daemon: Daemon) -> None:
    async with connect(daemon.address) as broker:
        await broker.restrict(["self", "name:*"], namespaces=["net", "uts"])
        await broker.restrict(["self"], namespaces=["net"], sockets=["*"])
        for stop in (signal.SIGTERM, signal.SIGKILL):
            daemon.stop(stop)
            daemon.start()
            (await broker.open("self", "net")).close()
            with pytest.raises(PermissionDenied):
                await broker.open("self", "uts")
            restricted = [record["target"] for record in daemon.records() if record["method"] == "Restrict"]
            assert restricted[-2:] == ["self name:*", "self name:* & self"]


async def test_a_watch_of_a_restricted_client_is_restricted(connect: Connect, daemon: Daemon) -> None:
    async with connect(daemon.address) as broker:
        await broker.restrict(["name:none-*"], namespaces=["net"])
        stop = threading.Thread(target=stop_when_it_watches, args=(daemon,))
        stop.start()
        with pytest.raises(ConnectionLost):
            await broker.events()
        stop.join()
        assert methods(daemon) == ["Restrict", "Restrict", "Watch"]


def methods(daemon: Daemon) -> list[str]:
    return [record["method"] for record in daemon.records()]


def stop_when_it_watches(daemon: Daemon) -> None:
    eventually(lambda: "Watch" in methods(daemon), "the watch has begun")
    daemon.stop()


def test_a_forked_child_is_restricted_too(daemon: Daemon) -> None:
    with daemon.connect() as broker:
        broker.restrict(["self"], namespaces=["net"])

        def child() -> str:
            broker.open("self", "net").close()
            try:
                broker.open("self", "uts").close()
            except PermissionDenied:
                return f"denied to {broker.who_am_i().pid == os.getpid()}"
            return "opened"

        assert in_child(child) == "denied to True"
        broker.open("self", "net").close()
        assert [record["method"] for record in daemon.records()].count("Restrict") == 2


def test_an_asyncio_client_in_a_forked_child_is_restricted_too(daemon: Daemon) -> None:
    async def main() -> None:
        async with nsbroker.client.asyncio.connect(daemon.address) as broker:
            await broker.restrict(["self"], namespaces=["net"])

            def child() -> object:
                async def ask() -> str:
                    with pytest.raises(PermissionDenied):
                        await broker.open("self", "uts")
                    broker.close()
                    return "denied"

                # The child has inherited the mark that an event loop is running.
                asyncio.events._set_running_loop(None)
                return asyncio.run(ask())

            assert in_child(child) == "denied"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("ask", "error"),
    [
        (lambda broker: broker.restrict("own"), InvalidType),
        (lambda broker: broker.restrict(["own"], namespaces="net"), InvalidType),
        (lambda broker: broker.restrict(["own"], namespaces=["network"]), InvalidType),
        (lambda broker: broker.restrict(["own"], sockets="*"), InvalidType),
        (lambda broker: broker.restrict(["blue"], namespaces=["net"]), InvalidParameter),
        (lambda broker: broker.restrict(["own"], sockets=["inet"]), InvalidParameter),
    ],
)
async def test_a_restriction_that_is_refused_restricts_nothing(
    connect: Connect, daemon: Daemon, ask: Callable[..., object], error: type[Exception]
) -> None:
    async with connect(daemon.address) as broker:
        with pytest.raises(error):
            await ask(broker)  # type: ignore[misc]  # every client returns an awaitable here
        (await broker.open("self", "net")).close()
        daemon.stop()
        daemon.start()
        (await broker.open("self", "net")).close()


async def test_all_types_are_written_as_in_rules(connect: Connect, daemon: Daemon) -> None:
    async with connect(daemon.address) as broker:
        everything = {"namespaces": ["*"], "sockets": ["*"], "devices": ["*"], "files": ["*"], "create": ["*"], "hold": ["*"]}
        await broker.restrict(["own"], **everything)
        for ns in (await broker.open_all("self")).values():
            ns.close()
    (record,) = [record for record in daemon.records() if record["method"] == "Restrict"]
    assert record["wanted"] == "namespaces *, sockets *, devices *, files *, create *, hold *"


class Script:
    """A fake broker, because the real one does not fail at chosen places.  It replies to the calls of each connection in turn.

    `connections` has the replies of each connection; b"" closes the connection without a reply, after the call was read.
    `calls` are the methods that were called, with the number of the connection.
    """

    def __init__(self, *connections: list[bytes]) -> None:
        self._connections = list(connections)
        self.calls: list[tuple[int, str]] = []
        self._count = 0

    def __call__(self, sock: socket.socket) -> None:
        number = self._count
        self._count += 1
        replies = list(self._connections[number]) if number < len(self._connections) else []
        while call := read_call(sock):
            self.calls.append((number, msgspec.json.decode(call[:-1])["method"].rpartition(".")[2]))
            reply = replies.pop(0) if replies else b""
            if not reply:
                return
            sock.sendall(reply)


async def test_a_restriction_whose_reply_was_lost_counts_as_made(connect: Connect) -> None:
    script = Script([b""], [NOTHING, WHO])
    with impostor(script) as address:
        async with connect(address) as broker:
            with pytest.raises(ConnectionLost):
                await broker.restrict(["own"], namespaces=["net"])
            await broker.who_am_i()
    assert script.calls == [(0, "Restrict"), (1, "Restrict"), (1, "WhoAmI")]


@pytest.mark.parametrize(
    ("reply", "error"), [(b"", ConnectionLost), (FULL, QuotaExceeded), (UNKNOWN, MethodNotFound), (INVALID, InvalidParameter)]
)
async def test_a_connection_that_cannot_be_restricted_again_is_not_used(
    connect: Connect, reply: bytes, error: type[Exception]
) -> None:
    script = Script([NOTHING, b""], [reply, WHO], [reply, WHO], [NOTHING, WHO])
    with impostor(script) as address:
        async with connect(address) as broker:
            await broker.restrict(["own"], namespaces=["net"])
            with pytest.raises(ConnectionLost):
                await broker.who_am_i()
            for _ in range(2):
                with pytest.raises(error):
                    await broker.who_am_i()
            await broker.who_am_i()
    assert script.calls == [
        (0, "Restrict"),
        (0, "WhoAmI"),
        (1, "Restrict"),
        (2, "Restrict"),
        (3, "Restrict"),
        (3, "WhoAmI"),
    ]


async def test_the_same_restriction_again_is_not_lost_when_the_broker_refuses_it(connect: Connect) -> None:
    script = Script([NOTHING, FULL, b""], [NOTHING, WHO])
    with impostor(script) as address:
        async with connect(address) as broker:
            await broker.restrict(["own"], namespaces=["net"])
            with pytest.raises(QuotaExceeded):
                await broker.restrict(["own"], namespaces=["net"])
            with pytest.raises(ConnectionLost):
                await broker.who_am_i()
            await broker.who_am_i()
    assert script.calls[-2:] == [(1, "Restrict"), (1, "WhoAmI")]


def test_a_connection_that_an_interrupt_left_unrestricted_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C can come between any two instructions: here, right after the new connection was made."""
    script = Script([NOTHING, b""], [NOTHING, WHO], [NOTHING, WHO])
    with impostor(script) as address, nsbroker.connect(address) as broker:
        broker.restrict(["own"], namespaces=["net"])
        with pytest.raises(ConnectionLost):
            broker.who_am_i()

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(broker, "_restrict_again", interrupt)
            with pytest.raises(KeyboardInterrupt):
                broker.who_am_i()
        broker.who_am_i()
    assert script.calls[2:] == [(2, "Restrict"), (2, "WhoAmI")]
