"""Faults while an interface is added: nothing stays behind, neither in a network nor in the daemon."""

import errno
import os
import pkgutil
import socket
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nsbroker.daemon.methods.call import Reply
from nsbroker.linux import descriptors
from nsbroker.namespace import Namespace
from nsbroker.varlink.connection import IncomingCall
from nsbroker.varlink.message import decode_call
from tests.attacks.test_faults import BY_NAME
from tests.daemon.one_caller import OneCaller
from tests.world import Sleeper, eventually

pytestmark = pytest.mark.root


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[OneCaller]:
    bench = OneCaller(tmp_path, BY_NAME + 'interfaces = ["*"]\n')
    yield bench
    bench.close()


@pytest.fixture
def networks() -> Iterator[tuple[Sleeper, Sleeper]]:
    with Sleeper(unshare="--net") as near, Sleeper(unshare="--net") as far:
        yield near, far


def names(process: Sleeper) -> set[str]:
    with Namespace.from_pid(process.pid, "net") as ns:
        return {name for _, name in ns.call(socket.if_nameindex) if name in ("eth0", "lab0", "tap0")}


async def ask(bench: OneCaller, **parameters: object) -> Reply:
    message = {"method": "io.nsbroker.Broker.AddInterface", "parameters": parameters}
    pending = bench.dispatcher.dispatch(bench.caller, IncomingCall(decode_call(msgspec.json.encode(message)), []))
    assert isinstance(pending, Coroutine)
    reply = await pending
    assert isinstance(reply, Reply)
    return reply


async def add_veth(bench: OneCaller, near: Sleeper, far: Sleeper) -> Reply:
    peer = {"target": {"pid": far.pid}, "name": "lab0"}
    return await ask(bench, target={"pid": near.pid}, kind="veth", name="eth0", peer=peer)


async def add_tap(bench: OneCaller, near: Sleeper, _: Sleeper) -> Reply:
    return await ask(bench, target={"pid": near.pid}, kind="tap", name="tap0")


ERRORS = [
    *(OSError(number, os.strerror(number)) for number in (errno.EPERM, errno.EMFILE)),
    ValueError("a fault of our own"),
]
SETNS = "nsbroker.inside.visit.setns"
SHARED = [
    "nsbroker.linux.process.Process.open_namespace",
    SETNS,
    "nsbroker.inside.visit._duplicate_fds",
    "nsbroker.inside.visit.Visit.start",
    "nsbroker.linux.rtnetlink.connect",
    "nsbroker.linux.rtnetlink.set_up",
    "nsbroker.daemon.limits.added_interfaces.AddedInterfaces.charge",
    "nsbroker.daemon.targets.pinned.PinnedProcess.check_unchanged",
    "nsbroker.daemon.audit.Audit.record",
    "nsbroker.daemon.audit.Audit.settle",
]
STEPS = {
    add_veth: (*SHARED, "nsbroker.linux.rtnetlink.add_veth"),
    add_tap: (*SHARED, "nsbroker.linux.tun.open_clone", "nsbroker.linux.tun.add_tap"),
}
CASES = [
    pytest.param(add, step, error, which, id=f"{add.__name__}-{step}-{error}-{which}")
    for add, steps in STEPS.items()
    for step in steps
    for error in ERRORS
    for which in (1, 2)
    # What a thread that cannot come back leaves behind is up to the garbage collector, unless the kernel was the reason.
    if isinstance(error, OSError) or step != SETNS
]


@pytest.mark.parametrize(("add", "step", "error", "which"), CASES)
async def test_an_error_at_any_step_leaves_nothing_behind(
    bench: OneCaller,
    networks: tuple[Sleeper, Sleeper],
    monkeypatch: pytest.MonkeyPatch,
    add: Callable[..., Any],
    step: str,
    error: Exception,
    which: int,
) -> None:
    real = pkgutil.resolve_name(step)
    calls: list[None] = []

    def fail(*args: Any, **options: Any) -> Any:
        calls.append(None)
        if len(calls) == which:
            raise error
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(step, fail)
        reply = await add(bench, *networks)
    if len(calls) < which or (step == SETNS and which == 2):
        # It was never called so often, or it was the way back, which ends the thread but changes nothing inside.
        assert reply.error is None
    else:
        assert reply.error is not None
        assert list(reply.fds) == []
        eventually(lambda: not names(networks[0]) | names(networks[1]), "nothing is left")
        reply = await add(bench, *networks)
        assert reply.error is None
    assert names(networks[0]) | names(networks[1]) == ({"tap0"} if add is add_tap else {"eth0", "lab0"})
    descriptors.close_all(reply.fds)
