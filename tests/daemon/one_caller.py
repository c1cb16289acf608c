"""A dispatcher without a server, with one caller: for tests that replace a step of a call."""

import errno
import os
import socket
from pathlib import Path

from nsbroker.daemon import configuration
from nsbroker.daemon.audit import Audit
from nsbroker.daemon.context import Context
from nsbroker.daemon.dispatcher import Dispatcher
from nsbroker.daemon.engines.registry import EngineRegistry
from nsbroker.daemon.limits.abandonable_threads import AbandonableThreads
from nsbroker.daemon.limits.added_interfaces import AddedInterfaces
from nsbroker.daemon.limits.connections import UserRegistry
from nsbroker.daemon.limits.created import CreatedNamespaces
from nsbroker.daemon.methods.call import Caller, Reply
from nsbroker.daemon.peer import Peer
from nsbroker.daemon.policy.rules import Policy
from nsbroker.daemon.record_sink import Record
from nsbroker.daemon.systemd.service_manager import FdStore
from nsbroker.daemon.targets.held_store import HeldStore
from nsbroker.varlink.connection import IncomingCall
from nsbroker.varlink.message import decode_call

ERRORS = [
    *(OSError(number, os.strerror(number)) for number in (errno.EPERM, errno.ESRCH, errno.EMFILE, errno.EIO, errno.EINVAL)),
    ValueError("a fault of our own"),
]
"""Errors to raise in the place of a step."""


class Sink:
    """Keeps records in a list."""

    name = "a list"

    def __init__(self, records: list[Record]) -> None:
        self.write = records.append

    async def wait_writable(self) -> None:
        raise AssertionError("a list takes everything")


class OneCaller:
    """A dispatcher without a server, with one caller, and the records that it wrote."""

    def __init__(self, folder: Path, rule: str) -> None:
        path = folder / "nsbroker.toml"
        path.write_text(rule)
        settings = configuration.load(path)
        self.records: list[Record] = []
        users = UserRegistry(settings.limits)
        threads = AbandonableThreads(settings.limits.threads_per_user)
        self.context = Context(
            Policy(settings),
            EngineRegistry({}, 1.0, threads),
            HeldStore(FdStore(), 4),
            users,
            Audit(Sink(self.records), settings.audit, settings.limits),
            CreatedNamespaces(settings.limits.created_per_user),
            AddedInterfaces(settings.limits.interfaces_per_user),
            threads,
        )
        self.dispatcher = Dispatcher(self.context)
        self.ends = socket.socketpair()
        self.peer = Peer(self.ends[0])
        # Before Linux 6.5 root is an anonymous peer, whose refusals are delayed.
        self.peer.anonymous = False
        self.caller = Caller(self.peer, users.admit(self.peer.uid, self.ends[0]))

    def open(self, pid: int) -> Reply:
        data = b'{"method":"io.nsbroker.Broker.Open","parameters":{"target":{"pid":%d},"types":["net","uts","ipc"]}}' % pid
        reply = self.dispatcher.dispatch(self.caller, IncomingCall(decode_call(data), []))
        assert isinstance(reply, Reply)
        return reply

    def close(self) -> None:
        self.peer.close()
        for end in self.ends:
            end.close()
