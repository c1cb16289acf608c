"""Handles of mount namespaces are closed on threads: the last one that is closed unmounts everything in the namespace."""

import contextlib
import os
import subprocess
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from nsbroker.daemon.limits.namespace_closing import close_namespaces, slow_fds
from nsbroker.daemon.methods import plain_open
from nsbroker.daemon.methods.call import Reply, ReplyStream
from nsbroker.errors import TimedOut
from nsbroker.linux.closing import Closer
from nsbroker.linux.features import Features, features
from nsbroker.linux.file_handle import NamespaceReference
from nsbroker.namespace import Namespace
from nsbroker.protocol.messages import ListReply
from nsbroker.varlink.connection import IncomingCall
from nsbroker.varlink.message import decode_call
from tests.daemon.one_caller import OneCaller
from tests.world import PATIENCE, Sleeper, eventually

pytestmark = pytest.mark.root

RULE = """
[[allow]]
name = "all"
who = "everyone"
targets = ["*"]
namespaces = ["*"]
create = ["mnt"]
hold = ["mnt"]
"""


class Closings:
    """The threads (threading.get_native_id) that close descriptors of mount namespaces, one for each descriptor.

    Those of mount namespaces that exist as long as this process are in `of_lasting`.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.threads: list[int] = []
        self.of_lasting: list[int] = []
        self._loop = threading.get_native_id()
        self._close = os.close
        self._lasting = {os.readlink("/proc/self/ns/mnt")}
        # That of process 1 cannot be read everywhere, not even by root.
        with contextlib.suppress(PermissionError):
            self._lasting.add(os.readlink("/proc/1/ns/mnt"))
        monkeypatch.setattr(os, "close", self._note)

    def _note(self, fd: int) -> None:
        name = os.readlink(f"/proc/self/fd/{fd}")
        self._close(fd)
        if name.startswith("mnt:"):
            (self.of_lasting if name in self._lasting else self.threads).append(threading.get_native_id())

    async def check(self, count: int) -> None:
        """Check that `count` descriptors are closed, none of them on the thread of the event loop, and begin anew."""
        with trio.fail_after(PATIENCE):
            while len(self.threads) < count:
                await trio.sleep(0.005)
        assert self._loop not in self.threads
        assert len(self.threads) == count
        self.threads.clear()


@pytest.fixture
def one(tmp_path: Path) -> Iterator[OneCaller]:
    one = OneCaller(tmp_path, RULE)
    yield one
    one.context.held_store.close()
    one.close()


@pytest.fixture
def sleeper() -> Iterator[Sleeper]:
    with Sleeper("--net --mount --propagation private") as process:
        yield process


@pytest.fixture
def closings(one: OneCaller, sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch) -> Closings:
    return Closings(monkeypatch)


@pytest.fixture(params=["plain", "general"])
def is_plain(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a call to Open goes the plain way."""
    if request.param == "general":
        monkeypatch.setattr(plain_open, "features", Features)
    return request.param == "plain" and features().pidfd_namespaces


def dispatch(one: OneCaller, method: str, parameters: dict[str, object], *, more: bool = False) -> Any:
    call = {"method": f"io.nsbroker.Broker.{method}", "parameters": parameters, "more": more}
    return one.dispatcher.dispatch(one.caller, IncomingCall(decode_call(msgspec.json.encode(call)), []))


async def ask(one: OneCaller, method: str, **parameters: object) -> Reply:
    result = dispatch(one, method, parameters)
    reply = await result if isinstance(result, Coroutine) else result
    assert isinstance(reply, Reply)
    return reply


def hang_up(one: OneCaller, reply: Reply) -> None:
    """Do what the server does with a reply that it has sent, or that nobody waits for any more."""
    reply.close(one.context.users.closer, one.peer.user)


async def test_only_handles_of_mount_namespaces_are_closed_on_a_thread(sleeper: Sleeper, closings: Closings) -> None:
    closer = Closer()
    mounts, net = Namespace.from_pid(sleeper.pid, "mnt"), Namespace.current("net")
    fd = net.fileno()
    close_namespaces((mounts, net), closer, 7)
    assert mounts.closed
    assert net.closed
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    close_namespaces((mounts, net), closer, 7)
    await closings.check(1)


def test_a_handle_of_a_mount_namespace_that_outlives_it_is_closed_at_once(closings: Closings) -> None:
    """The broker is in it, so this handle is never the last thing that keeps it alive."""
    with Namespace.current("mnt") as mounts:
        assert slow_fds([mounts.fileno()], [mounts.type]) == []
    close_namespaces([Namespace.current("mnt")], Closer(), 7)
    assert closings.of_lasting == [threading.get_native_id()] * 2
    assert not closings.threads


async def test_a_reply_of_open_that_is_not_sent(one: OneCaller, sleeper: Sleeper, closings: Closings, is_plain: bool) -> None:
    reply = await ask(one, "Open", target={"pid": sleeper.pid}, types=["net", "mnt"])
    assert reply.error is None
    hang_up(one, reply)
    await closings.check(1)
    reply = await ask(one, "Open", target={"pid": sleeper.pid}, types=["net"])
    assert not reply.slow_fds
    hang_up(one, reply)


async def test_an_open_that_fails_after_opening(
    one: OneCaller, sleeper: Sleeper, closings: Closings, is_plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **more: Any) -> None:
        if more.get("namespaces"):
            raise ValueError("a fault of our own")

    monkeypatch.setattr(one.context.audit, "record", fail)
    reply = await ask(one, "Open", target={"pid": sleeper.pid}, types=["net", "mnt"])
    assert reply.error is not None
    # What goes wrong on the plain way is tried again on the general one.
    await closings.check(2 if is_plain else 1)


async def test_the_namespace_that_a_target_names(one: OneCaller, sleeper: Sleeper, closings: Closings) -> None:
    reply = await ask(one, "Open", target={"path": f"/proc/{sleeper.pid}/ns/mnt"}, types=["mnt"])
    assert reply.error is not None, "a link of /proc is not followed"
    hang_up(one, await ask(one, "Open", target={"namespace": f"mnt:[{sleeper.inode('mnt')}]"}, types=["mnt"]))
    # One was pinned, one was opened for the reply; the search may have looked at others, on its own thread.
    with trio.fail_after(PATIENCE):
        while len(closings.threads) < 2:
            await trio.sleep(0.005)
    await closings.check(len(closings.threads))


async def test_the_ids_in_a_list(one: OneCaller, sleeper: Sleeper, closings: Closings) -> None:
    stream: ReplyStream = dispatch(one, "List", {"target": {"pid": sleeper.pid}, "types": ["mnt"]}, more=True)
    assert isinstance(stream, AsyncGenerator)
    replies = [reply.parameters async for reply in stream]
    listed = [reply.namespace for reply in replies if isinstance(reply, ListReply) and reply.namespace is not None]
    assert [found.type for found in listed] == ["mnt"]
    with trio.fail_after(PATIENCE):
        while not closings.threads:
            await trio.sleep(0.005)
    await closings.check(len(closings.threads))


async def test_what_a_watch_opens(one: OneCaller, sleeper: Sleeper, closings: Closings) -> None:
    stream: ReplyStream = dispatch(one, "Watch", {"types": ["mnt"], "open": ["mnt"]}, more=True)
    async for reply in stream:
        # The first ones can be namespaces that exist as long as this process.
        inodes = [os.fstat(fd).st_ino for fd in reply.fds]
        hang_up(one, reply)
        if inodes == [sleeper.inode("mnt")]:
            assert reply.slow_fds == reply.fds
            break
    await stream.aclose()
    await closings.check(len(closings.threads) or 1)


async def test_holding_and_releasing(one: OneCaller, sleeper: Sleeper, closings: Closings) -> None:
    assert (await ask(one, "Hold", target={"pid": sleeper.pid}, types=["mnt"], name="kept")).error is None
    await closings.check(1)
    assert (await ask(one, "Release", name="kept")).error is None
    await closings.check(1)


async def test_holding_that_fails(one: OneCaller, sleeper: Sleeper, closings: Closings, monkeypatch: pytest.MonkeyPatch) -> None:
    async def settle() -> None:
        raise TimedOut("the service manager did not confirm it")

    monkeypatch.setattr(one.context.held_store._store, "settle", settle)
    for method, parameters in (("Hold", {"target": {"pid": sleeper.pid}}), ("Create", {})):
        assert (await ask(one, method, types=["mnt"], name="kept", **parameters)).error is not None
        # The store had a handle of its own.
        await closings.check(2)


async def test_creating(one: OneCaller, closings: Closings) -> None:
    reply = await ask(one, "Create", types=["mnt"])
    assert reply.error is None
    closings.threads.clear()  # Making it on a thread takes some, too.
    hang_up(one, reply)
    await closings.check(1)


async def test_the_last_handle_of_a_namespace_with_ten_thousand_files(one: OneCaller, sleeper: Sleeper, closings: Closings) -> None:
    """The kernel really frees all of them within that close(2)."""
    subprocess.run(["nsenter", "--mount", "--target", str(sleeper.pid), "mount", "-t", "tmpfs", "many", "/mnt"], check=True)
    for number in range(10_000):
        Path(f"/proc/{sleeper.pid}/root/mnt/{number}").touch()
    reply = await ask(one, "Open", target={"pid": sleeper.pid}, types=["mnt"])
    reference = NamespaceReference.of(reply.fds[0])
    sleeper.end()
    assert reference is None or reference.exists()
    closings.threads.clear()  # The test's own look at the namespace is not what this is about.
    hang_up(one, reply)
    await closings.check(1)
    if reference is not None:
        eventually(lambda: not reference.exists(), "that was the last handle")
