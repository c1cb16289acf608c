"""When the broker does not answer, every step ends in time, with an error that says what to check."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import nsbroker
import nsbroker.client.asyncio
import nsbroker.client.trio
import nsbroker.via.trio
from nsbroker import via
from nsbroker.cli import grant_files, main
from nsbroker.cli.completion import command_line
from nsbroker.client import requests
from nsbroker.client.pending import PendingCall
from nsbroker.errors import ConnectionLost, NsbrokerError, PermissionDenied, Timeout
from tests.client.every_client import CLIENTS, Connect, impostor, read_call
from tests.client.test_hostile import OPENED, PEER
from tests.client.test_in_flight import networks, read_calls, send_net
from tests.world import PATIENCE, SLOWNESS, Daemon, run_command

pytestmark = pytest.mark.once

DEFAULT_TIMEOUT = 0.3
SOCKET = b'{"parameters":{"socketFileDescriptor":0}}\0'
DENIED = b'{"error":"org.varlink.service.PermissionDenied"}\0'
WITHOUT_BROKER = {
    *("serve", "check-config", "grants", "install-extcap", "install-units", "remove-extcap", "remove-units", "completion"),
}
TESTED_APART = {
    "doctor": [],
    "grant": ["user:0", "self", "--namespaces", "net", "--for", "1h"],
    "revoke": ["grant-x-1"],
}
"""Commands that ask the broker, and end in another way than others: they print a row, or change files of the system first."""


@pytest.fixture(params=CLIENTS)
def connect(request: pytest.FixtureRequest) -> Connect:
    return CLIENTS[request.param]


@pytest.fixture
def stopped(daemon: Daemon) -> Iterator[Daemon]:
    """A broker that is stopped with SIGSTOP."""
    os.kill(daemon.pid, signal.SIGSTOP)
    yield daemon
    os.kill(daemon.pid, signal.SIGCONT)


@pytest.fixture
def full() -> Iterator[str]:
    """The address of a listener that accepts no connection, and whose queue is full."""
    path = f"/run/full-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as waiting:
        listener.bind(path)
        listener.listen(0)
        waiting.enter_context(socket.socket(socket.AF_UNIX)).connect(path)
        yield f"unix:{path}"
    os.unlink(path)


DEFAULTS = """
import inspect
import nsbroker, nsbroker.client.asyncio, nsbroker.client.trio, nsbroker.via, nsbroker.via.trio
for connect in (nsbroker.connect, nsbroker.client.trio.connect, nsbroker.client.asyncio.connect):
    print(inspect.signature(connect).parameters["timeout"].default)
for start in (nsbroker.via.Popen, nsbroker.via.trio.open_process):
    print(inspect.signature(start).parameters["broker_timeout"].default)
"""


def test_the_default_is_ten_seconds_for_every_client() -> None:
    # In this process the tests have made the clients more patient.
    done = subprocess.run([sys.executable, "-c", DEFAULTS], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"10", "10.0"}
    assert len(done.stdout.split()) == 5


async def test_a_call_to_a_stopped_broker_ends(connect: Connect, stopped: Daemon) -> None:
    async with connect(stopped.address, timeout=DEFAULT_TIMEOUT) as broker:
        for _ in range(2):
            with pytest.raises(Timeout, match=r"open net of self: .* within 0\.3 s.*systemctl status nsbroker") as caught:
                await broker.open("self", "net")
            assert isinstance(caught.value, TimeoutError)
            assert isinstance(caught.value, ConnectionLost)


async def test_a_watch_of_a_stopped_broker_ends(connect: Connect, stopped: Daemon) -> None:
    async with connect(stopped.address, timeout=DEFAULT_TIMEOUT) as broker:
        with pytest.raises(Timeout, match="watch namespaces"):
            await broker.events()


async def test_connecting_where_the_queue_is_full_ends(connect: Connect, full: str) -> None:
    begun = time.monotonic()
    with pytest.raises(Timeout, match=r"connect to the broker at .* within 0\.3 s"):
        async with connect(full, timeout=DEFAULT_TIMEOUT):
            pass
    assert DEFAULT_TIMEOUT <= time.monotonic() - begun < 5 * SLOWNESS


async def test_connecting_where_the_queue_is_full_goes_on_until_there_is_room(connect: Connect) -> None:
    path = f"/run/full-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        accepted: list[socket.socket] = []
        later = threading.Timer(0.1, lambda: accepted.append(listener.accept()[0]))
        later.start()
        async with connect(f"unix:{path}"):
            pass
        later.join()
        accepted[0].close()
    os.unlink(path)


async def test_a_broker_that_does_not_read_ends_a_call_that_is_long(connect: Connect) -> None:
    over = threading.Event()
    with impostor(lambda sock: wait(over)) as address:
        try:
            async with connect(address, timeout=DEFAULT_TIMEOUT) as broker:
                # So many names do not fit into the send buffer, once it is small.
                _shrink(broker)
                with pytest.raises(Timeout):
                    await broker.explain("self", devices=["x" * 200] * 250)
        finally:
            over.set()


def wait(event: threading.Event) -> None:
    event.wait()


def _shrink(broker: Any) -> None:
    inner = getattr(broker, "_broker", broker)
    inner._transport.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)


async def test_each_reply_restarts_the_deadline(connect: Connect) -> None:
    def behave(sock: socket.socket) -> None:
        read_call(sock)
        for _ in range(4):
            time.sleep(0.3 * timeout)
            sock.sendall(b'{"continues":true}\0')
        sock.sendall(b"{}\0")

    timeout = 0.6 * SLOWNESS
    with impostor(behave) as address:
        async with connect(address, timeout=timeout) as broker:
            assert await broker.list() == []


async def test_without_a_timeout_a_call_waits(connect: Connect) -> None:
    def behave(sock: socket.socket) -> None:
        read_call(sock)
        time.sleep(0.2)
        sock.sendall(b'{"error":"io.nsbroker.Broker.QuotaExceeded","parameters":{"limit":"x"}}\0')

    with impostor(behave) as address:
        async with connect(address, timeout=None) as broker:
            with pytest.raises(NsbrokerError, match="'x'"):
                await broker.who_am_i()


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
async def test_a_timeout_is_positive(connect: Connect, timeout: float) -> None:
    with pytest.raises(ValueError, match="greater than 0, or None"):
        async with connect("unix:/run/nowhere", timeout=timeout):
            pass


def test_the_timeout_of_a_connection_inside_covers_the_call_to_the_broker(stopped: Daemon) -> None:
    with nsbroker.connect(stopped.address) as broker:
        begun = time.monotonic()
        with pytest.raises(Timeout, match="open a socket"):
            # The second address of the name is not tried: it is the broker that does not answer.
            broker.create_connection("self", ("localhost", 80), timeout=DEFAULT_TIMEOUT)
        assert time.monotonic() - begun < PATIENCE / 2


def test_without_a_timeout_of_its_own_a_connection_inside_has_that_of_the_client(stopped: Daemon) -> None:
    with nsbroker.connect(stopped.address, timeout=DEFAULT_TIMEOUT) as broker, pytest.raises(TimeoutError) as caught:
        broker.create_connection("self", ("127.0.0.1", 80))
    assert isinstance(caught.value, ConnectionLost)


@pytest.mark.parametrize("client_timeout", [60.0, None])
def test_a_shorter_timeout_of_one_call_ends_that_call_alone(client_timeout: float | None) -> None:
    """The calls of `open_many` are under way beside it.  Its own reply comes late, and the descriptor in it is closed."""
    late = threading.Event()

    def behave(sock: socket.socket) -> None:
        read_calls(sock, 3)
        send_net(sock)
        read_calls(sock, 1)
        late.wait()
        for data in (OPENED % 0, OPENED % 0, SOCKET):
            send_net(sock, data)
        if read_calls(sock, 1):
            sock.sendall(PEER)

    with impostor(behave) as address, nsbroker.connect(address, timeout=client_timeout) as broker:
        connection = broker._transport.sock
        try:
            with broker.open_many(["self"] * 3, ["net"]) as opened:
                namespaces = [next(opened)[1]]
                with pytest.raises(Timeout, match=r"open a socket.* within 0\.3 s"):
                    broker.create_connection("self", ("127.0.0.1", 80), timeout=DEFAULT_TIMEOUT)
                before = networks()
                late.set()
                namespaces += [namespaces for _, namespaces in opened]
        finally:
            late.set()
        assert len(namespaces) == 3
        for outcome in namespaces:
            assert isinstance(outcome, dict), outcome
            outcome.popitem()[1].close()
        assert broker.who_am_i().uid == 1
        assert broker._transport.sock is connection
        assert not broker._transport.busy
        assert networks() == before - 1


def test_a_shorter_timeout_does_not_end_the_call_of_another_thread() -> None:
    """The other thread has begun its call, but does not wait yet.  Here one thread makes both steps, in this order."""
    late = threading.Event()

    def behave(sock: socket.socket) -> None:
        read_calls(sock, 2)
        late.wait()
        send_net(sock)

    with impostor(behave) as address, nsbroker.connect(address, timeout=60) as broker:
        call = PendingCall(requests.open_namespaces("self", ["net"]))
        broker._begin(call)
        try:
            with pytest.raises(Timeout, match=r"open a socket"):
                broker.create_connection("self", ("127.0.0.1", 80), timeout=DEFAULT_TIMEOUT)
        finally:
            late.set()
        broker._settle(call)
        broker._result(call).popitem()[1].close()


def test_a_shorter_timeout_begins_when_the_call_does() -> None:
    """What was asked before, and nobody waits for now, may have been under way for longer than this call may take."""

    def behave(sock: socket.socket) -> None:
        read_calls(sock, 2)
        send_net(sock)
        sock.sendall(DENIED)

    with impostor(behave) as address, nsbroker.connect(address, timeout=600) as broker:
        call = PendingCall(requests.open_namespaces("self", ["net"]))
        broker._begin(call)
        broker._transport.since -= 500
        with pytest.raises(PermissionDenied):
            broker.create_connection("self", ("127.0.0.1", 80), timeout=PATIENCE / 2)
        broker._settle(call)
        broker._result(call).popitem()[1].close()


def test_a_command_that_looks_names_up_inside_gives_up_when_the_broker_is_stopped(stopped: Daemon) -> None:
    with nsbroker.connect(stopped.address, timeout=DEFAULT_TIMEOUT) as broker, pytest.raises(Timeout, match="open the file hosts"):
        broker.create_connection("self", ("web", 80), resolve="inside")
    # A program under `nsbroker via` does not start at all, instead of waiting for each file and each socket.
    with pytest.raises(Timeout, match="open the file"):
        via.run(["true"], "self", address=stopped.address, broker_timeout=DEFAULT_TIMEOUT)


@pytest.mark.parametrize("name", TESTED_APART)
def test_the_doctor_and_grants_end_when_the_broker_is_stopped(stopped: Daemon, name: str) -> None:
    done = run_command(name, *TESTED_APART[name], "--timeout", "0.2", address=stopped.address)
    for folder in (grant_files.DIRECTORY, grant_files.DIRECTORY.parent):
        if folder.exists():
            folder.rmdir()
    assert done.returncode == 1, done
    # There is no grant of that name, so the broker is not asked.
    assert "did not answer within 0.2 s" in done.stdout + done.stderr or name == "revoke"


def test_a_watch_waits_for_events_as_long_as_it_takes(daemon: Daemon) -> None:
    timeout = 3.0 * SLOWNESS
    with nsbroker.connect(daemon.address, timeout=timeout) as broker, broker.watch(["net"]) as events:
        while next(events).event != "ready":
            pass
        with subprocess.Popen(["sh", "-c", "sleep 1; exec unshare --net sleep 60"]) as process:
            while next(events).event != "added":
                pass
            process.kill()


COMMANDS = [
    ["show", "self"], ["open", "self", "--", "true"], ["exec", "self", "--", "true"], ["forward", "self", "0:80"],
    ["connect", "self", "127.0.0.1", "80"], ["devices", "self"], ["ls"], ["tree"], ["watch"], ["map", "/tmp/x.svg"], ["ps"],
    ["containers"], ["create", "x"], ["hold", "self", "x"], ["release", "x"], ["list-held"], ["whoami"],
    ["explain", "self"], ["status"], ["via", "self", "--", "true"], ["cat", "self", "net/dev"],
    ["add-interface", "self", "eth7", "--veth", "self:eth8"], ["capture", "self"],
    ["exporter", "--listen", "0"],
    ["extcap", "--capture", "--extcap-interface", "self", "--fifo", "/tmp/x"],
]  # fmt: skip


def test_every_command_that_asks_the_broker_has_a_timeout_and_is_tested_with_it() -> None:
    commands = command_line.commands(main.parser())
    with_timeout = {one.name: option.help for one in commands for option in one.options if "--timeout" in option.flags}
    assert with_timeout.keys() == {one.name for one in commands} - WITHOUT_BROKER
    assert with_timeout.keys() == {words[0] for words in COMMANDS} - {"ps"} | TESTED_APART.keys()
    assert [name for name, text in with_timeout.items() if "(default: 10)" not in text] == []


def test_every_command_ends_when_the_broker_is_stopped(stopped: Daemon) -> None:
    for command in COMMANDS:
        cut = command.index("--") if "--" in command else len(command)
        done = run_command(*command[:cut], "--timeout", "0.2", *command[cut:], address=stopped.address)
        assert done.returncode == 1, done
        assert done.stdout == "" or command[0] == "forward"
        assert "did not answer within 0.2 s" in done.stderr, done
        assert len(done.stderr.splitlines()) == 1, done


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "x", ""])
def test_the_commands_timeout_is_a_number_above_zero(seconds: str) -> None:
    done = run_command("whoami", f"--timeout={seconds}")
    assert done.returncode == 2
    assert "greater than 0" in done.stderr


def test_a_stopped_broker_with_a_full_queue_ends_a_command(full: str) -> None:
    done = run_command("whoami", "--timeout", "0.2", address=full)
    assert done.returncode == 1
    assert "connect to the broker" in done.stderr
