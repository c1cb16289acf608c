"""The events of a watch: a handle belongs to whoever has the event, and is of the namespace that the event is about."""

import os
from typing import Any

import msgspec
import pytest

from nsbroker.client import events
from nsbroker.errors import ProtocolError
from nsbroker.model.description import WatchEvent
from nsbroker.varlink import message
from nsbroker.varlink.connection import IncomingReply
from tests.client.every_client import CLIENTS
from tests.world import Daemon, Sleeper


def reply(fds: list[int], **parameters: Any) -> IncomingReply:
    return IncomingReply(message.Reply(msgspec.Raw(msgspec.json.encode(parameters)), continues=True), fds)


def own(ns_type: str) -> tuple[int, dict[str, object]]:
    """An open namespace of this process, and its description."""
    fd = os.open(f"/proc/self/ns/{ns_type}", os.O_RDONLY | os.O_CLOEXEC)
    facts = os.fstat(fd)
    return fd, {"type": ns_type, "inode": facts.st_ino, "device": facts.st_dev, "processes": 1}


def test_the_handle_takes_the_fd() -> None:
    fd, description = own("net")
    fds = [fd]
    event = events.read(reply(fds, event="added", namespace=description, namespaceFileDescriptor=0))
    assert fds == []
    assert event.handle is not None
    with event.handle as handle:
        assert (handle.fileno(), handle.type, event.event) == (fd, "net", "added")


def test_without_an_fd_there_is_no_handle() -> None:
    fd, description = own("net")
    os.close(fd)
    event = events.read(reply([], event="present", namespace=description))
    assert event.handle is None
    assert events.read(reply([], event="ready")) == events.Event(WatchEvent.READY)


@pytest.mark.parametrize("about", ["uts", None])
def test_another_namespace_than_the_events_is_refused_and_closed(about: str | None) -> None:
    fd, _ = own("net")
    parameters: dict[str, Any] = {"event": "added", "namespaceFileDescriptor": 0}
    if about is not None:
        other, parameters["namespace"] = own(about)
        os.close(other)
    with pytest.raises(ProtocolError, match="another namespace"):
        events.read(reply([fd], **parameters))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@pytest.mark.parametrize("name", [name for name in CLIENTS if name != "asyncio"])
async def test_every_client_gets_handles(name: str, daemon: Daemon, sleeper: Sleeper) -> None:
    async with CLIENTS[name](daemon.address) as broker:
        watch = broker._broker.watch(["uts"], open=["uts"])
        found = []
        if name == "blocking":
            with watch as stream:
                for event in stream:
                    if event.event == "ready":
                        break
                    found.append(event.handle)
        else:
            async with watch as stream:
                async for event in stream:
                    if event.event == "ready":
                        break
                    found.append(event.handle)
    inodes = {handle.inode for handle in found if handle is not None}
    for handle in found:
        if handle is not None:
            handle.close()
    assert sleeper.inode("uts") in inodes
