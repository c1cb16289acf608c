"""Host names as a target knows them, with every client and a real name server inside."""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

import nsbroker
import nsbroker.client.asyncio
import nsbroker.client.trio
from nsbroker.errors import LookupFailed
from nsbroker.names import awaiting, blocking
from nsbroker.namespace import Namespace
from tests.client.every_client import CLIENTS, Connect
from tests.named_place import ADDRESS, Place, named_place
from tests.world import ALICE, PATIENCE, SLOWNESS, Daemon, as_user

pytestmark = pytest.mark.root


@pytest.fixture
def place() -> Iterator[Place]:
    with named_place() as place:
        yield place


@pytest.fixture(params=CLIENTS)
def connect(request: pytest.FixtureRequest) -> Connect:
    return CLIENTS[request.param]


def close(connection: Any) -> None:
    """Close what `create_connection` of a client returned."""
    if isinstance(connection, tuple):
        connection[1].transport.abort()
    else:
        getattr(connection, "socket", connection).close()


async def reach(connect: Connect, daemon: Daemon, place: Place, host: str) -> str:
    """Connect to the listener by a host name, and return the address to which it led."""
    async with connect(daemon.address) as broker:
        connection = await broker.create_connection(place.target, (host, place.port), resolve="inside")
        accepted, _ = place.listener.accept()
        close(connection)
        with accepted:
            return str(accepted.getsockname()[0]).removeprefix("::ffff:")


@pytest.mark.parametrize(
    ("host", "address", "questions"),
    [
        ("file", ADDRESS, 0),
        ("127.0.0.1", "127.0.0.1", 0),
        ("web.test", ADDRESS, 2),
        ("WEB.test.", ADDRESS, 2),
        ("db", ADDRESS, 2),
        ("six.test", "2001:db8::7", 2),
    ],
)
async def test_a_name_leads_where_it_leads_inside(
    connect: Connect, daemon: Daemon, place: Place, host: str, address: str, questions: int
) -> None:
    assert await reach(connect, daemon, place, host) == address
    assert len(place.server.asked) == questions
    assert {way for way, _, _ in place.server.asked} <= {"udp"}


async def test_a_long_answer_comes_over_tcp(connect: Connect, daemon: Daemon, place: Place) -> None:
    place.server.truncates = True
    assert await reach(connect, daemon, place, "web.test") == ADDRESS
    assert {way for way, _, _ in place.server.asked} == {"udp", "tcp"}


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("nothing.test", "there is no such name"),
        ("empty.test", "the name has no address"),
        ("x" * 70, "no host name"),
        ("a..b", "no host name"),
    ],
)
async def test_a_name_that_is_not_known_is_a_clear_error(
    connect: Connect, daemon: Daemon, place: Place, host: str, message: str
) -> None:
    before = daemon.snapshot()
    with pytest.raises(LookupFailed, match=message) as raised:
        await reach(connect, daemon, place, host)
    assert isinstance(raised.value, OSError)
    assert str(raised.value).startswith(f"cannot look up {host!r} as {place.target} does: ")
    daemon.settles_at(before)


async def test_a_server_that_does_not_answer_ends_the_lookup(connect: Connect, daemon: Daemon, place: Place) -> None:
    place.server.silent = True
    (place.etc / "resolv.conf").write_text(f"nameserver {ADDRESS}\noptions timeout:1\n")
    with pytest.raises(LookupFailed, match="did not answer in time"):
        await reach(connect, daemon, place, "web.test")
    assert place.server.asked


# A reply to another question, with addresses for a name of 127 labels, each of which dnspython reads again for each address.
_LABELS = b"\1a" * 127 + b"\0"
_ADDRESSES = b"".join(b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" + number.to_bytes(4, "big") for number in range(4000))
SLOW_JUNK = b"\0\0\x80\0\0\1" + (4000).to_bytes(2, "big") + b"\0\0\0\0" + _LABELS + b"\0\1\0\1" + _ADDRESSES


@pytest.fixture
def many_datagrams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make lookups look at any number of datagrams, so that only time can end them."""
    for module in (awaiting, blocking):
        monkeypatch.setattr(module, "DATAGRAMS_MAX", 10**9)


async def test_a_server_that_sends_junk_without_end_is_asked_no_more(connect: Connect, daemon: Daemon, place: Place) -> None:
    place.server.junk = b"x"
    (place.etc / "resolv.conf").write_text(f"nameserver {ADDRESS}\noptions timeout:30\n")
    with pytest.raises(LookupFailed, match="none of 100 datagrams is an answer"):
        await reach(connect, daemon, place, "web.test")


async def test_an_answer_over_tcp_that_takes_long_to_decode_is_refused(connect: Connect, daemon: Daemon, place: Place) -> None:
    place.server.truncates, place.server.long = True, SLOW_JUNK
    with pytest.raises(LookupFailed, match=f"the answer has {len(SLOW_JUNK)} bytes"):
        await reach(connect, daemon, place, "web.test")


async def test_an_answer_over_tcp_to_another_question_is_refused(connect: Connect, daemon: Daemon, place: Place) -> None:
    place.server.truncates, place.server.long = True, b"\0\0\x80\0" + bytes(8)
    with pytest.raises(LookupFailed, match="one to another question"):
        await reach(connect, daemon, place, "web.test")


@pytest.mark.usefixtures("many_datagrams")
async def test_junk_without_end_ends_the_lookup_in_time(connect: Connect, daemon: Daemon, place: Place) -> None:
    place.server.junk = SLOW_JUNK
    (place.etc / "resolv.conf").write_text(f"nameserver {ADDRESS}\noptions timeout:1\n")
    begun = time.monotonic()
    with pytest.raises(LookupFailed, match="did not answer in time"):
        await reach(connect, daemon, place, "web.test")
    assert time.monotonic() - begun < 10 * SLOWNESS


@pytest.mark.usefixtures("many_datagrams")
def test_a_timeout_of_ones_own_ends_a_lookup_full_of_junk(daemon: Daemon, place: Place) -> None:
    place.server.junk = SLOW_JUNK
    begun = time.monotonic()
    with daemon.connect() as broker, pytest.raises(LookupFailed, match="did not answer in time"):
        broker.create_connection(place.target, ("web.test", place.port), 0.5, resolve="inside")
    assert time.monotonic() - begun < 5 * SLOWNESS


@pytest.mark.usefixtures("many_datagrams")
@pytest.mark.parametrize("library", ["trio", "asyncio"])
def test_junk_without_end_leaves_other_tasks_their_turn_and_the_lookup_can_be_cancelled(
    library: str, daemon: Daemon, place: Place
) -> None:
    place.server.junk = SLOW_JUNK
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await (trio.sleep if library == "trio" else asyncio.sleep)(0)
            turns += 1

    async def with_trio() -> None:
        async with nsbroker.client.trio.connect(daemon.address) as broker, trio.open_nursery() as nursery:
            nursery.start_soon(count)
            with trio.move_on_after(2) as scope:
                await broker.create_connection(place.target, ("web.test", place.port), resolve="inside")
            assert scope.cancelled_caught
            nursery.cancel_scope.cancel()

    async def with_asyncio() -> None:
        async with nsbroker.client.asyncio.connect(daemon.address) as broker:
            counting = asyncio.create_task(count())
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(2):
                    await broker.create_connection(place.target, ("web.test", place.port), resolve="inside")
            counting.cancel()

    if library == "trio":
        trio.run(with_trio)
    else:
        asyncio.run(with_asyncio())
    assert turns > 1


async def test_no_server_there_is_an_error(connect: Connect, daemon: Daemon, place: Place) -> None:
    (place.etc / "resolv.conf").write_text("nameserver 10.9.8.6\nnameserver 127.0.0.5\noptions timeout:1\n")
    with pytest.raises(LookupFailed, match="its name servers"):
        await reach(connect, daemon, place, "web.test")


async def test_files_that_are_missing_or_links(connect: Connect, daemon: Daemon, place: Place) -> None:
    (place.etc / "hosts").unlink()
    assert await reach(connect, daemon, place, "web.test") == ADDRESS
    (place.etc / "resolv.conf").rename(place.etc / "elsewhere")
    with pytest.raises(LookupFailed, match="there is no such file"):
        await reach(connect, daemon, place, "web.test")
    (place.etc / "resolv.conf").symlink_to("elsewhere")
    with pytest.raises(LookupFailed, match="symbolic link"):
        await reach(connect, daemon, place, "web.test")


async def test_another_word_is_a_mistake(connect: Connect, daemon: Daemon) -> None:
    async with connect(daemon.address) as broker:
        with pytest.raises(ValueError, match="neither 'here' nor 'inside'"):
            await broker.create_connection("self", ("web.test", 80), resolve="there")


def test_it_takes_the_files_and_the_sockets(daemon: Daemon, place: Place) -> None:
    def ask(host: str = "web.test") -> Callable[[], str]:
        def connect() -> str:
            with nsbroker.connect(daemon.address) as broker:
                try:
                    broker.create_connection(place.target, (host, place.port), PATIENCE, resolve="inside").close()
                except OSError as error:
                    return str(error)
                return ""

        return connect

    rule: dict[str, Any] = {"who": [f"user:{ALICE}"], "targets": ["pid:*"], "sockets": ["inet:stream"]}
    daemon.allow("alice", **rule)
    assert "lets you have the file hosts there" in as_user(ALICE, ask())
    daemon.allow("alice", **rule, files=["hosts"])
    assert as_user(ALICE, ask("file")) == ""
    assert "lets you have the file resolv.conf there" in as_user(ALICE, ask())
    daemon.allow("alice", **rule, files=["hosts", "resolv.conf"])
    assert "inet:dgram" in as_user(ALICE, ask())
    daemon.allow("alice", **{**rule, "sockets": ["inet:stream", "inet:dgram"]}, files=["*"])
    assert as_user(ALICE, ask()) == ""


def test_a_namespace_alone_has_the_files_of_ip_netns(daemon: Daemon, blue: Path) -> None:
    """They are read by the client, as `ip netns exec` reads them."""
    folder = Path("/etc/netns/blue")
    folder.mkdir(parents=True)
    try:
        (folder / "hosts").write_text("127.0.0.9 special.test\n")
        subprocess.run(["ip", "-n", "blue", "link", "set", "lo", "up"], check=True)
        with daemon.connect() as broker, Namespace.from_path(blue, "net") as ns:
            with ns.call(socket.create_server, ("127.0.0.9", 0)) as listener:
                address = ("special.test", listener.getsockname()[1])
                broker.create_connection("name:blue", address, resolve="inside").close()
            with pytest.raises(ConnectionRefusedError):
                broker.create_connection("name:blue", ("localhost", 9), resolve="inside")
    finally:
        (folder / "hosts").unlink()
        folder.rmdir()
        folder.parent.rmdir()


def test_without_dnspython_the_error_says_what_to_install(daemon: Daemon, place: Place) -> None:
    code = """
import sys
sys.modules["dns"] = None
import nsbroker
with nsbroker.connect(sys.argv[1]) as broker:
    broker.create_connection(sys.argv[2], ("file", int(sys.argv[3])), resolve="inside").close()
    try:
        broker.create_connection(sys.argv[2], ("web.test", int(sys.argv[3])), resolve="inside")
    except OSError as error:
        print(error)
"""
    command = [sys.executable, "-c", code, daemon.address, place.target, str(place.port)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == (
        f"cannot look up 'web.test' as {place.target} does: dnspython, which asks name servers, is not installed: "
        "run pip install '.[dns]' in a checkout of nsbroker\n"
    )
