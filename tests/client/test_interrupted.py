"""An exception that a signal handler raises, at every place where one can: each descriptor has one owner all the same."""

import asyncio
import gc
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
import trio

import nsbroker
import nsbroker.client.asyncio
import nsbroker.client.trio
from nsbroker.client import async_broker, blocking, requests, results, transport
from nsbroker.linux import ancillary
from nsbroker.namespace import handle
from nsbroker.varlink import connection, framing
from tests.client.every_client import impostor_elsewhere
from tests.client.test_hostile import OPENED, TWO, answer, net
from tests.world import _fds

pytestmark = pytest.mark.once

FILES = {
    module.__file__
    for module in (
        ancillary, results, async_broker, blocking, connection, framing, handle, requests, transport, nsbroker.client.asyncio,
        nsbroker.client.trio, socket,
    )
}  # fmt: skip
NULL_SOCKET = b'{"parameters":{"socketFileDescriptor":0}}\0'
NULL_DEVICE = b'{"parameters":{"deviceFileDescriptor":0}}\0'


# Cleaning up once more, and what runs where nothing can be raised.
_OTHERS = ("__del__",)


class Interrupted(BaseException):
    """What the signal handler raises."""


class Injector:
    """Raises Interrupted at the step `at` of what is traced: a line, or with `fine` an instruction."""

    def __init__(self, at: int, *, fine: bool) -> None:
        self._left = at
        self._fine = fine
        self.done = False

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename not in FILES or frame.f_code.co_name in _OTHERS:
            return None
        if event == "call":
            frame.f_trace_opcodes = self._fine
        elif event == ("opcode" if self._fine else "line") and not self.done:
            self._left -= 1
            if self._left < 0:
                self.done = True
                sys.settrace(None)
                raise Interrupted
        return self


def descriptors() -> dict[int, str]:
    return dict(_fds(os.getpid()))


def check(run: Callable[[], Any], close: Callable[[Any], None], injector: Injector, hang_up: Callable[[], object] = int) -> bool:
    """Run it once; whether it was interrupted.  What it leaves is closed once, and nothing else is."""
    hang_up()
    before = descriptors()
    canaries: list[int] = []
    try:
        sys.settrace(injector)
        try:
            result = run()
        finally:
            sys.settrace(None)
        close(result)
    except Interrupted as error:
        # Whoever still closes a number that is closed already now hits one of these.
        canaries.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(20))
        del error
    hang_up()
    with warnings.catch_warnings():
        # A handle that nobody got is forgotten, and closed for that.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    for fd in canaries:
        assert os.readlink(f"/proc/self/fd/{fd}") == os.devnull, "closed twice"
        os.close(fd)
    assert descriptors() == before
    return injector.done


def close_one(thing: Any) -> None:
    thing.close()


def close_each(spaces: Any) -> None:
    for space in spaces.values():
        space.close()


def inet() -> int:
    return socket.socket().detach()


def null() -> int:
    return os.open(os.devnull, os.O_RDONLY)


def uts() -> int:
    return os.open("/proc/self/ns/uts", os.O_RDONLY)


CASES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], None], Callable[[socket.socket], None]]] = {
    "open": (lambda broker: broker.open("self", "net"), close_one, answer(OPENED % 0, net)),
    "open_all": (lambda broker: broker.open_all("self", ["net", "uts"]), close_each, answer(TWO, net, uts)),
    "create": (
        lambda broker: broker.create(["net"]),
        lambda made: close_each(made.namespaces),
        answer(OPENED[:-3] % 0 + b',"durable":true}}\0', net),
    ),
    "socket": (lambda broker: broker.socket("self"), close_one, answer(NULL_SOCKET, inet)),
    "device": (lambda broker: broker.device("self", "null"), close_one, answer(NULL_DEVICE, null)),
}


@pytest.fixture(autouse=True)
def no_pauses() -> Iterator[None]:
    """The collector is called after each step: what was there before any of them need not be looked at each time."""
    gc.disable()
    gc.collect()
    gc.freeze()
    yield
    gc.enable()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("fine", [False, True], ids=["lines", "instructions"])
@pytest.mark.parametrize("case", CASES)
def test_a_blocking_call(case: str, fine: bool) -> None:
    ask, close, behave = CASES[case]
    with impostor_elsewhere(behave) as address, nsbroker.connect(address) as broker:
        close(ask(broker))

        def hang_up() -> None:
            # Where a trace function may raise before the lock is let go of, a signal handler cannot.
            broker._lock = threading.Lock()
            broker._wire.drop()

        for at in range(100_000):
            if not check(lambda: ask(broker), close, Injector(at, fine=fine), hang_up):
                break
        else:
            raise AssertionError("it never came to an end")
    assert at > (50 if fine else 20)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("case", ["open_all", "socket"])
@pytest.mark.parametrize("front", ["trio", "asyncio"])
def test_a_call_that_is_awaited(front: str, case: str) -> None:
    ask, close, behave = CASES[case]
    module: Any = {"trio": nsbroker.client.trio, "asyncio": nsbroker.client.asyncio}[front]

    async def once(at: int) -> bool:
        injector = Injector(at, fine=True)
        async with module.connect(address) as broker:
            sys.settrace(injector)
            try:
                result = await ask(broker)
            except Interrupted:
                return True
            finally:
                sys.settrace(None)
            close(result)
        return injector.done

    with impostor_elsewhere(behave) as address:
        before = descriptors()
        for at in range(100_000):
            going_on = asyncio.run(once(at)) if front == "asyncio" else trio.run(once, at)
            gc.collect()
            assert descriptors() == before, at
            if not going_on:
                break
    assert at > 50


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(
    "make",
    [
        lambda: nsbroker.Namespace.current("net"),
        lambda: nsbroker.Namespace.create("ipc"),
        lambda: nsbroker.Namespace.from_path("/proc/self/ns/net"),
        lambda: nsbroker.Namespace.from_fd(net(), owned=True),
        lambda: nsbroker.Namespace.from_fd(net(), owned=True, type="net", verify=False),
    ],
    ids=["current", "create", "from_path", "from_fd", "from_fd trusted"],
)
def test_a_handle_that_is_made_here(make: Callable[[], nsbroker.Namespace]) -> None:
    make().close()
    for at in range(1000):
        injector = InjectorInside(at)
        if not check(make, close_one, injector):
            break
    assert at > 3


class InjectorInside(Injector):
    """At every line of namespace.py but the first two of each function, `try` being one: a number that is an argument is
    the function's from then on.
    """

    def __init__(self, at: int) -> None:
        super().__init__(at, fine=False)
        self._lines: dict[int, set[int]] = {}

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename != handle.__file__:
            return None
        if event == "call":
            self._lines[id(frame)] = set()
        elif event == "line":
            self._lines[id(frame)].add(frame.f_lineno)
            if len(self._lines[id(frame)]) <= 2:
                return self
        return super().__call__(frame, event, arg)


def test_real_signals_in_their_thousands() -> None:
    """Not at every place, but as they really come."""
    armed = [False]

    def interrupt(*_: object) -> None:
        if armed[0]:
            armed[0] = False
            raise Interrupted

    old = signal.signal(signal.SIGUSR1, interrupt)
    main, end = threading.main_thread().ident, threading.Event()
    assert main

    def fire() -> None:
        while not end.is_set():
            signal.pthread_kill(main, signal.SIGUSR1)
            time.sleep(0.0007)

    before = descriptors()
    firing = threading.Thread(target=fire)
    interrupted = 0
    with impostor_elsewhere(answer(TWO, net, uts)) as address, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        firing.start()
        until = time.monotonic() + 3
        while time.monotonic() < until:
            with nsbroker.connect(address) as broker:
                spaces: dict[Any, nsbroker.Namespace] = {}
                try:
                    armed[0] = True
                    spaces = broker.open_all("self", ["net", "uts"])
                    armed[0] = False
                except Interrupted:
                    interrupted += 1
                close_each(spaces)
        end.set()
        firing.join()
        signal.signal(signal.SIGUSR1, old)
    gc.collect()
    assert interrupted > 50
    assert descriptors() == before
