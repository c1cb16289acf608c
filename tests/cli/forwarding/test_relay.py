"""The relay of `nsbroker forward`, between real TCP connections.  Each test fails when the relay leaves descriptors open."""

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import Iterator

import pytest

from nsbroker.cli.forwarding.relay import Relay, Traffic
from tests.cli.conftest import break_off
from tests.world import PATIENCE


def pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a connection, both non-blocking."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        left = socket.create_connection(listener.getsockname())
        right, _ = listener.accept()
    left.setblocking(False)
    right.setblocking(False)
    return left, right


async def is_broken(sock: socket.socket) -> bool:
    """Return whether the data ends with a reset."""
    try:
        while await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 1 << 16), PATIENCE):
            pass
    except ConnectionResetError:
        return True
    return False


async def block(client: socket.socket) -> None:
    """Write until neither the socket nor the relay has room left."""
    for _ in range(5):
        with contextlib.suppress(BlockingIOError):
            while True:
                client.send(bytes(1 << 16))
        await asyncio.sleep(0.01)


async def relay_halfway(*, cancel: bool) -> None:
    relay = Relay()
    (client, near), (far, server) = pair(), pair()
    task = asyncio.create_task(relay.run(near, far, Traffic.none()))
    with client, server:
        await block(client)
        if cancel:
            task.cancel()
            assert await is_broken(server)
        else:
            break_off(server)
        await asyncio.wait([task], timeout=PATIENCE)
        assert task.cancelled() is cancel
        assert await is_broken(client)
    relay.close()


@pytest.mark.parametrize("cancel", [True, False])
def test_a_relay_that_is_cancelled_or_breaks_resets_both_sides_and_leaves_nothing_open(*, cancel: bool) -> None:
    asyncio.run(relay_halfway(cancel=cancel))


async def relay_two_at_once() -> None:
    relay = Relay()
    pairs = [(*pair(), *pair()) for _ in range(2)]
    tasks = [asyncio.create_task(relay.run(near, far, Traffic.none())) for _, near, far, _ in pairs]
    await block(pairs[0][0])
    # The second pair does not wait for the first, which is blocked.
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(pairs[1][0], b"ping")
    assert await asyncio.wait_for(loop.sock_recv(pairs[1][3], 5), PATIENCE) == b"ping"
    for client, _, _, server in pairs:
        break_off(server)
        client.close()
    await asyncio.gather(*tasks)
    relay.close()


def test_a_blocked_relay_does_not_block_another() -> None:
    asyncio.run(relay_two_at_once())


async def relay_many() -> int:
    relay = Relay()
    pairs = [(*pair(), *pair()) for _ in range(60)]
    before = len(os.listdir("/proc/self/fd"))
    for _, _, far, server in pairs:
        far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    tasks = [asyncio.create_task(relay.run(near, far, Traffic.none())) for _, near, far, _ in pairs]
    loop = asyncio.get_running_loop()
    for client, *_ in pairs:
        await loop.sock_sendall(client, bytes(1 << 19))
        client.close()
    # The clients are gone, and most of the relays wait with data in a pipe: in more pipes than are kept.
    async with asyncio.timeout(2 * PATIENCE):
        while len(os.listdir("/proc/self/fd")) - (before - 60) <= 2 * 40:
            await asyncio.sleep(0.01)
    for *_, server in pairs:
        while await loop.sock_recv(server, 1 << 18):
            pass
        server.close()
    await asyncio.gather(*tasks)
    kept = len(os.listdir("/proc/self/fd")) - (before - 4 * 60)
    relay.close()
    return kept


@contextlib.contextmanager
def no_free_descriptors() -> Iterator[None]:
    """Let this process open nothing more."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, before[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def relay_pieces(sizes: list[int], limit: contextlib.AbstractContextManager[None]) -> None:
    relay = Relay()
    (client, near), (far, server) = pair(), pair()
    task = asyncio.create_task(relay.run(near, far, Traffic.none()))
    with limit:
        await send_pieces(sizes, client, server)
    await task
    relay.close()


async def send_pieces(sizes: list[int], client: socket.socket, server: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    sent = os.urandom(sum(sizes))

    async def send() -> None:
        at = 0
        for size in sizes:
            await loop.sock_sendall(client, sent[at : at + size])
            at += size
        client.shutdown(socket.SHUT_WR)

    sending = asyncio.create_task(send())
    received = bytearray()
    while piece := await loop.sock_recv(server, 50_000):
        received += piece
    # A difference of megabytes would take minutes to be shown.
    assert (len(received), received == sent) == (len(sent), True)
    # The other direction still works.
    await loop.sock_sendall(server, b"bye")
    server.close()
    assert await loop.sock_recv(client, 10) == b"bye"
    assert await loop.sock_recv(client, 10) == b""
    client.close()
    await sending


@pytest.mark.parametrize("sizes", [[], [1] * 50, [16384], [16384] * 3, [16383, 16385, 1], [1, 1 << 20, 1, 1 << 22, 7, 300_000]])
def test_small_and_large_pieces_arrive_whole_and_in_order(sizes: list[int]) -> None:
    asyncio.run(relay_pieces(sizes, contextlib.nullcontext()))


def test_large_pieces_arrive_whole_without_a_free_descriptor_for_a_pipe() -> None:
    asyncio.run(relay_pieces([1, 1 << 20, 1, 1 << 22, 7, 300_000], no_free_descriptors()))


def test_after_many_connections_only_some_pipes_are_kept() -> None:
    assert 0 < asyncio.run(relay_many()) <= 64
