"""Wherever a signal handler raises an exception, each descriptor has exactly one owner."""

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
from nsbroker.client import async_broker, async_calls, blocking, blocking_calls, pending, requests, results, transport
from nsbroker.linux import ancillary
from nsbroker.namespace import handle
from nsbroker.varlink import connection, framing
from tests.client.every_client import impostor_elsewhere
from tests.client.test_hostile import OPENED, TWO, net, reply_with
from tests.snapshot import open_files

pytestmark = pytest.mark.once

FILES = {
    module.__file__
    for module in (
        ancillary, async_broker, async_calls, blocking, blocking_calls, connection, framing, handle, pending, requests, results,
        transport, nsbroker.client.asyncio, nsbroker.client.trio, socket,
    )
}  # fmt: skip
NULL_SOCKET = b'{"parameters":{"socketFileDescriptor":0}}\0'
NULL_DEVICE = b'{"parameters":{"deviceFileDescriptor":0}}\0'


# Exceptions in these functions are ignored, so none is raised there.
_NOT_INTERRUPTED = ("__del__",)


class Interrupted(BaseException):
    """What the signal handler raises."""


class Injector:
    """A trace function that raises Interrupted at step `at` of FILES: a step is a line, or with `fine` an instruction."""

    def __init__(self, at: int, *, fine: bool) -> None:
        self._left = at
        self._fine = fine
        self.done = False

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename not in FILES or frame.f_code.co_name in _NOT_INTERRUPTED:
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
    return dict(open_files(os.getpid()))


def check(run: Callable[[], Any], close: Callable[[Any], None], injector: Injector, hang_up: Callable[[], object] = int) -> bool:
    """Run `run` once, and return whether it was interrupted.  Check that each descriptor was closed exactly once."""
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
        # If anything closes a descriptor a second time, it closes one of these, and that is noticed below.
        canaries.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(20))
        del error
    hang_up()
    with warnings.catch_warnings():
        # A handle that never reached the caller is closed when it is collected.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    for fd in canaries:
        assert os.readlink(f"/proc/self/fd/{fd}") == os.devnull, "closed twice"
        os.close(fd)
    assert descriptors() == before
    return injector.done


def close_one(thing: Any) -> None:
    thing.close()


def close_each(namespaces: Any) -> None:
    for ns in namespaces.values():
        ns.close()


def inet() -> int:
    return socket.socket().detach()


def null() -> int:
    return os.open(os.devnull, os.O_RDONLY)


def uts() -> int:
    return os.open("/proc/self/ns/uts", os.O_RDONLY)


CASES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], None], Callable[[socket.socket], None]]] = {
    "open": (lambda broker: broker.open("self", "net"), close_one, reply_with(OPENED % 0, net)),
    "open_all": (lambda broker: broker.open_all("self", ["net", "uts"]), close_each, reply_with(TWO, net, uts)),
    "create": (
        lambda broker: broker.create(["net"]),
        lambda created: close_each(created.namespaces),
        reply_with(OPENED[:-3] % 0 + b',"durable":true}}\0', net),
    ),
    "socket": (lambda broker: broker.socket("self"), close_one, reply_with(NULL_SOCKET, inet)),
    "device": (lambda broker: broker.device("self", "null"), close_one, reply_with(NULL_DEVICE, null)),
}


@pytest.fixture(autouse=True)
def no_pauses() -> Iterator[None]:
    """Freeze the objects that exist now, because the garbage collector runs after each step."""
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
            # A trace function can raise just before the lock is released, where a signal handler cannot.
            broker._lock = threading.Lock()
            broker._transport.drop()

        for at in range(100_000):
            if not check(lambda: ask(broker), close, Injector(at, fine=fine), hang_up):
                break
        else:
            raise AssertionError("it did not end")
    assert at > (50 if fine else 20)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("case", ["open_all", "socket"])
@pytest.mark.parametrize("client", ["trio", "asyncio"])
def test_an_async_call(client: str, case: str) -> None:
    ask, close, behave = CASES[case]
    module: Any = {"trio": nsbroker.client.trio, "asyncio": nsbroker.client.asyncio}[client]

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
            interrupted = asyncio.run(once(at)) if client == "asyncio" else trio.run(once, at)
            gc.collect()
            assert descriptors() == before, at
            if not interrupted:
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
def test_a_handle_opened_without_the_broker(make: Callable[[], nsbroker.Namespace]) -> None:
    make().close()
    for at in range(1000):
        injector = InjectorInside(at)
        if not check(make, close_one, injector):
            break
    assert at > 3


class InjectorInside(Injector):
    """Interrupts at every line of namespace/handle.py, except the first two lines of each function, of which `try` is one.

    A function owns the descriptor that is its argument only after these lines.
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


def test_thousands_of_real_signals() -> None:
    """Real signals arrive at random places, not at every one."""
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
    with impostor_elsewhere(reply_with(TWO, net, uts)) as address, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        firing.start()
        until = time.monotonic() + 3
        while time.monotonic() < until or interrupted <= 50:
            with nsbroker.connect(address) as broker:
                namespaces: dict[Any, nsbroker.Namespace] = {}
                try:
                    armed[0] = True
                    namespaces = broker.open_all("self", ["net", "uts"])
                    armed[0] = False
                except Interrupted:
                    interrupted += 1
                close_each(namespaces)
        end.set()
        firing.join()
        signal.signal(signal.SIGUSR1, old)
    gc.collect()
    assert descriptors() == before
