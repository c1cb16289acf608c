"""Host names as a target knows them, with every client and a real name server inside."""

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import nsbroker
from nsbroker.errors import LookupFailed
from nsbroker.namespace import Namespace
from tests.client.every_client import CLIENTS, Connect
from tests.named_place import ADDRESS, Place, named_place
from tests.world import ALICE, PATIENCE, Daemon, as_user

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
