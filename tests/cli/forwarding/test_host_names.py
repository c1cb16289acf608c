"""Looking up host names of this host.  No resolver can be told when to answer, so that a fake one takes the time that a test wants.

tests/cli/commands/test_forward_reverse.py has a real name server that does not answer.
"""

import asyncio
import errno
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from nsbroker.cli.forwarding import host_names
from nsbroker.cli.forwarding.host_names import AT_ONCE_MAX, HostNames
from tests.world import PATIENCE, eventually

ADDRESS = ("10.9.8.7", 80)


class Resolver:
    """Takes the place of getaddrinfo(3) for names.  It answers when `gate` is set."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.waiting = 0
        self.answered = 0
        self._lock = threading.Lock()

    def __call__(self, host: str, port: int, *, type: int, flags: int) -> list[Any]:
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        with self._lock:
            self.waiting += 1
        self.gate.wait()
        with self._lock:
            self.answered += 1
        if host == "missing":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, type, 6, "", ADDRESS)]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    resolver = Resolver()
    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", resolver)
        yield resolver
        resolver.gate.set()
        eventually(lambda: resolver.answered == resolver.waiting, "all threads have ended")


async def reach(condition: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


def test_a_name_leads_to_its_addresses_and_a_missing_one_is_an_error(resolver: Resolver) -> None:
    async def run() -> None:
        names = HostNames()
        assert await names.look_up("web", 80) == [(socket.AF_INET, ADDRESS)]
        with pytest.raises(socket.gaierror):
            await names.look_up("missing", 80)

    resolver.gate.set()
    asyncio.run(run())


@pytest.mark.parametrize(
    ("host", "family", "address"),
    [("127.0.0.1", socket.AF_INET, ("127.0.0.1", 80)), ("::1", socket.AF_INET6, ("::1", 80, 0, 0))],
)
def test_a_number_takes_no_thread(host: str, family: int, address: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_names, "start_thread", None)
    assert asyncio.run(HostNames().look_up(host, 80)) == [(family, address)]


def test_what_cannot_be_a_host_name_is_an_error() -> None:
    with pytest.raises(UnicodeError):
        asyncio.run(HostNames().look_up("a..b", 80))


def test_only_some_names_are_looked_up_at_a_time_and_a_cancelled_one_keeps_its_place(resolver: Resolver) -> None:
    async def run() -> None:
        names = HostNames()
        first = [asyncio.create_task(names.look_up("web", 80)) for _ in range(AT_ONCE_MAX)]
        await reach(lambda: resolver.waiting == AT_ONCE_MAX)
        for task in first[1:]:
            task.cancel()
        await asyncio.wait(first[1:])
        last = asyncio.create_task(names.look_up("web", 80))
        await asyncio.sleep(0.1)
        assert resolver.waiting == AT_ONCE_MAX
        resolver.gate.set()
        assert await last == await first[0] == [(socket.AF_INET, ADDRESS)]

    asyncio.run(run())


def test_the_event_loop_ends_while_a_name_is_looked_up(resolver: Resolver) -> None:
    async def run() -> None:
        looking = asyncio.create_task(HostNames().look_up("web", 80))
        await reach(lambda: resolver.waiting == 1)
        looking.cancel()

    asyncio.run(run())
    assert resolver.answered == 0


def test_without_a_thread_it_is_an_error_and_the_place_is_free_again(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root is under no limit of threads, so that the failure is made up."""

    def fail(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    async def run() -> None:
        names = HostNames()
        with monkeypatch.context() as patch:
            patch.setattr(host_names, "start_thread", fail)
            for _ in range(AT_ONCE_MAX + 1):
                with pytest.raises(OSError, match="temporarily unavailable") as raised:
                    await names.look_up("web", 80)
                assert raised.value.errno == errno.EAGAIN
        assert await names.look_up("web", 80) == [(socket.AF_INET, ADDRESS)]

    resolver.gate.set()
    asyncio.run(run())
