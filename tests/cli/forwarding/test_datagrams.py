"""Associations of UDP clients, over the loopback."""

import asyncio
import contextlib
import errno
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from nsbroker.cli.forwarding import datagrams
from nsbroker.cli.forwarding.datagrams import Datagrams, DatagramWay
from nsbroker.cli.forwarding.progress import Progress
from tests.world import PATIENCE

LOOPBACK: dict[int, str] = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


def bound(family: int, host: str) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.bind((host, 0))
    return sock


class Scene:
    """A forward to `server`, and clients of it."""

    def __init__(self, family: int, host: str, timeout: float) -> None:
        self.family = family
        self.listener = bound(family, host)
        self.server = bound(family, LOOPBACK[family])
        self.opened = 0
        self.fault: OSError | None = None
        self.looked = 0
        way = DatagramWay("here", "there", self._open, self._open_socket)
        self.forward = Datagrams(self.listener, way, Progress(json=False), timeout)

    async def _open(self) -> socket.socket:
        self.opened += 1
        if self.fault is not None:
            raise self.fault
        sock = socket.socket(self.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        sock.connect(self.server.getsockname())
        return sock

    async def _open_socket(self, family: int) -> socket.socket:
        self.looked += 1
        return socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def client(self, host: str = "") -> socket.socket:
        sock = socket.socket(self.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        sock.connect((host or LOOPBACK[self.family], self.listener.getsockname()[1]))
        return sock

    async def ask(self, client: socket.socket, data: bytes) -> object:
        """Send a datagram to the server, and one back.  Returns the address from which the server got it."""
        client.send(data)
        got, address = await asyncio.wait_for(asyncio.get_running_loop().sock_recvfrom(self.server, 1 << 16), PATIENCE)
        assert got == data
        self.server.sendto(data[::-1], address)
        assert await receive(client) == data[::-1]
        return address


async def eventually(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"never happened: {what}"
        await asyncio.sleep(0.005)


async def receive(sock: socket.socket) -> bytes:
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 1 << 16), PATIENCE)


@contextlib.asynccontextmanager
async def scene(family: int = socket.AF_INET, host: str = "", timeout: float = 600.0) -> AsyncIterator[Scene]:
    made = Scene(family, host or LOOPBACK[family], timeout)
    task = asyncio.create_task(made.forward.run())
    with made.listener, made.server:
        try:
            yield made
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await test()

    asyncio.run(main())


@pytest.mark.parametrize("family", LOOPBACK)
def test_each_client_has_an_association_of_its_own(family: int) -> None:
    async def test() -> None:
        async with scene(family) as made:
            with made.client() as one, made.client() as other:
                first = await made.ask(one, b"a question")
                second = await made.ask(other, b"another")
                assert first != second
                assert await made.ask(one, b"and one more") == first
                assert made.opened == 2

    run(test)


@pytest.mark.parametrize("size", [0, 1, 1472, 65507])
def test_a_datagram_of_any_size_arrives_as_it_is(size: int) -> None:
    async def test() -> None:
        async with scene() as made:
            with made.client() as client:
                await made.ask(client, bytes(range(256)) * (size // 256) + bytes(size % 256))

    run(test)


def test_an_answer_comes_from_the_address_that_was_asked() -> None:
    async def test() -> None:
        async with scene(host="0.0.0.0") as made:
            for host in ("127.0.0.1", "127.0.0.2", "127.1.2.3"):
                # A connected socket receives only from the address that it is connected to.
                with made.client(host) as client:
                    await made.ask(client, b"a question")
        async with scene(socket.AF_INET6, host="::") as made:
            with made.client("::1") as client:
                await made.ask(client, b"a question")

    run(test)


def test_an_association_ends_when_it_is_not_used() -> None:
    async def test() -> None:
        async with scene(timeout=0.05) as made:
            with made.client() as client:
                await made.ask(client, b"a question")
                await eventually(lambda: not made.forward._associations, "the association ends")
                await made.ask(client, b"a question")
                assert made.opened == 2

    run(test)


def test_the_least_used_association_goes_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datagrams, "ASSOCIATIONS_MAX", 3)

    async def test() -> None:
        async with scene() as made:
            with contextlib.ExitStack() as stack:
                clients = [stack.enter_context(made.client()) for _ in range(4)]
                addresses = [await made.ask(client, b"x") for client in clients[:3]]
                assert await made.ask(clients[0], b"x") == addresses[0]
                await made.ask(clients[3], b"x")
                # The second client was the one that asked nothing for the longest time.
                assert await made.ask(clients[0], b"x") == addresses[0]
                assert await made.ask(clients[2], b"x") == addresses[2]
                assert made.opened == 4
                await made.ask(clients[1], b"x")
                assert made.opened == 5

    run(test)


def test_a_flood_of_clients_takes_a_bounded_number_of_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datagrams, "ASSOCIATIONS_MAX", 50)

    async def test() -> None:
        async with scene() as made:
            for number in range(500):
                with made.client() as client:
                    await made.ask(client, b"%d" % number)
                assert len(made.forward._associations) <= datagrams.ASSOCIATIONS_MAX
            # The kernel may give two clients the same port.
            assert made.opened > 450

    run(test)


def test_a_server_that_is_not_there_yet_is_reached_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datagrams, "FOLLOW", 600.0)

    async def test() -> None:
        async with scene() as made:
            address = made.server.getsockname()
            with made.client() as client:
                await made.ask(client, b"x")
                made.server.close()
                # The kernel reports that nobody listens with the next call.
                for _ in range(5):
                    client.send(b"lost")
                    await asyncio.sleep(0.01)
                made.server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
                with made.server:
                    made.server.bind(address)
                    await made.ask(client, b"again")
                assert made.opened == 1

    run(test)


def test_a_client_that_cannot_have_a_socket_is_told_of_once_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(datagrams, "_RETRY", 0.1)

    async def test() -> None:
        async with scene(timeout=0.2) as made:
            made.fault = OSError(errno.EMFILE, "")
            with made.client() as client:
                for _ in range(20):
                    client.send(b"lost")
                await eventually(lambda: made.opened == 1 and not made.forward._associations, "it gives up")
                made.fault = None
                await made.ask(client, b"again")

    run(test)
    assert capfd.readouterr().err == "nsbroker: there: Too many open files\n"


async def is_reached(client: socket.socket, server: socket.socket) -> None:
    """Let a client send all the time, until the server gets something of it."""
    end = time.monotonic() + PATIENCE
    while True:
        assert time.monotonic() < end, "nothing arrives"
        client.send(b"again")
        await asyncio.sleep(0.02)
        with contextlib.suppress(BlockingIOError):
            assert server.recv(10) == b"again"
            return


def test_a_client_that_never_stops_sending_is_tried_again_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datagrams, "_RETRY", 0.2)

    async def test() -> None:
        async with scene() as made:
            made.fault = OSError(errno.ENETUNREACH, "")
            with made.client() as client:
                client.send(b"lost")
                await eventually(lambda: made.opened == 1, "it is tried")
                made.fault = None
                await is_reached(client, made.server)
                assert made.opened == 2

    run(test)


def move(made: Scene) -> None:
    """Let the server be at another address.  Its old socket stays open."""
    made.server = bound(made.family, LOOPBACK[made.family])


def test_a_client_that_never_stops_sending_is_led_into_the_new_network_of_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of another network, the kernel's number of it is another one; `test_forward_datagrams` has real ones."""
    monkeypatch.setattr(datagrams, "FOLLOW", 0.1)
    network = 1
    monkeypatch.setattr(datagrams, "netns_cookie", lambda _: network)

    async def test() -> None:
        nonlocal network
        async with scene() as made:
            with made.client() as client, made.client() as other:
                await made.ask(client, b"a question")
                await eventually(lambda: made.looked > 0, "it looks for another network")
                move(made)
                network = 2
                with made.server:
                    # This one gets its socket in the new network, and keeps it.
                    await is_reached(other, made.server)
                    assert made.opened == 2
                    await is_reached(client, made.server)
                    assert made.opened == 3

    run(test)


def test_nothing_is_opened_to_find_a_new_network_while_nobody_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datagrams, "FOLLOW", 0.05)

    async def test() -> None:
        async with scene() as made:
            with made.client() as client:
                await made.ask(client, b"a question")
                await eventually(lambda: made.looked > 0, "it looks once")
                looked = made.looked
                await asyncio.sleep(0.3)
                assert made.looked <= looked + 1

    run(test)


@pytest.mark.parametrize("error", [None, OSError(errno.ENOPROTOOPT, "")])
def test_a_client_of_which_nothing_can_arrive_gets_another_socket(error: OSError | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also before Linux 5.14, where networks have no numbers."""
    monkeypatch.setattr(datagrams, "FOLLOW", 0.1)

    def number(_: socket.socket) -> int:
        if error is not None:
            raise error
        return 1

    monkeypatch.setattr(datagrams, "netns_cookie", number)

    async def test() -> None:
        async with scene() as made:
            with made.client() as client:
                await made.ask(client, b"a question")
                made.server.close()
                move(made)
                with made.server:
                    await is_reached(client, made.server)
                    assert made.opened >= 2

    run(test)
