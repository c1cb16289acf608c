"""The daemon as a whole: configuration, socket, signals, and its life from start to end."""

import contextlib
import ctypes
import gc
import math
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import trio

from nsbroker.daemon import configuration
from nsbroker.daemon.audit import Audit, open_audit
from nsbroker.daemon.configuration import Configuration
from nsbroker.daemon.context import Parts
from nsbroker.daemon.dispatcher import Broker
from nsbroker.daemon.engines.registry import Roster
from nsbroker.daemon.limits.abandonable_threads import AbandonableThreads
from nsbroker.daemon.limits.connections import UserRegistry
from nsbroker.daemon.limits.created import CreatedNamespaces
from nsbroker.daemon.listener import Listener, own_socket, passed_socket
from nsbroker.daemon.policy.rules import Policy
from nsbroker.daemon.server import Server
from nsbroker.daemon.systemd.service_manager import FdStore, Manager, passed_fds
from nsbroker.daemon.targets.held_store import Holder, is_from_store
from nsbroker.errors import ConfigurationError

_PR_SET_DUMPABLE = 4
_HEARTBEAT = 5.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_SWITCH_INTERVAL = 0.00005
_FULL_COLLECTION = 1000


def run(address: Path, config: Path | None, idle_timeout: float | None) -> None:
    """Serve until SIGTERM or SIGINT, or until nobody was connected for `idle_timeout` seconds.

    Raises ConfigurationError when it cannot begin.
    """
    # Before anything can enter a namespace: nobody there may trace or read us.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    _raise_file_limit()
    settings = configuration.load(config)
    passed = passed_fds()
    audit = open_audit(settings.audit, settings.limits)
    users = UserRegistry(settings.limits)
    holder = Holder(FdStore(), settings.limits.held_per_user)
    for fault in holder.restore(filter(is_from_store, passed)):
        audit.say(fault)
    daemon = Daemon(settings, config, holder, users, audit)
    sockets = [one.fd for one in passed if not is_from_store(one)]
    if idle_timeout is not None and not sockets:
        raise ConfigurationError(
            "--idle-timeout goes with a socket that the service manager passes, and keeps when the broker leaves"
        )
    listener = passed_socket(sockets) if sockets else own_socket(address)
    # A thread that looks through /proc keeps the event loop waiting for so long each time that both want to run.
    sys.setswitchinterval(_SWITCH_INTERVAL)
    # What is here now stays: the collector need not look at it again and again.  Looking at all else, when thousands of rules
    # are read, keeps everybody waiting for a tenth of a second: it is done seldom.
    gc.freeze()
    gc.enable()
    gc.set_threshold(*gc.get_threshold()[:2], _FULL_COLLECTION)
    try:
        trio.run(daemon.serve, listener, idle_timeout)
    finally:
        listener.close()
        users.close()
        holder.close()


class Daemon:
    """The broker and its server, with the configuration in force."""

    def __init__(self, settings: Configuration, config: Path | None, holder: Holder, users: UserRegistry, audit: Audit) -> None:
        self._config = config
        self._holder = holder
        self._users = users
        self._audit = audit
        self._manager = Manager()
        limits = settings.limits
        threads = AbandonableThreads(limits.threads_per_user)
        created = CreatedNamespaces(limits.created_per_user)
        self._parts = Parts(Policy(settings), _roster(settings, threads), holder, users, audit, created, threads)
        self._warn(self._parts.policy)
        self._server = Server(Broker(self._parts), users, audit)
        self._fault = ""

    async def serve(self, listener: Listener, idle_timeout: float | None) -> None:
        """Answer until told to stop."""
        stop = trio.Event()
        for number in _SIGNALS:
            # What they are again when nobody receives them any more: one that comes as we end must not kill us.
            signal.signal(number, signal.SIG_IGN)
        with trio.open_signal_receiver(*_SIGNALS) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._server.serve, listener.sock, stop)
                async with trio.open_nursery() as life:
                    life.start_soon(self._obey_signals, signals, life, listener)
                    life.start_soon(self._beat)
                    if idle_timeout is not None:
                        life.start_soon(self._leave_when_idle, idle_timeout, life.cancel_scope)
                self._manager.stopping()
                self._manager.status("answering what is under way")
                # First out of sight, then answer those who came before.
                with contextlib.suppress(OSError):
                    listener.withdraw()
                stop.set()
        self._audit.write_floods(everyone=True)

    async def _obey_signals(self, signals: AsyncIterator[int], life: trio.Nursery, listener: Listener) -> None:
        # As long as one reload is under way, any number of others are one.
        ask, asked = trio.open_memory_channel[None](1)
        life.start_soon(self._reload_when_asked, asked)
        # Only now: a signal that comes as soon as we are ready must find somebody.
        self._tell_status()
        self._manager.ready()
        self._audit.say(f"listening on {listener.sock.getsockname()}")
        async for number in signals:
            if number != signal.SIGHUP:
                break
            with contextlib.suppress(trio.WouldBlock):
                ask.send_nowait(None)
        life.cancel_scope.cancel()

    async def _reload_when_asked(self, asked: trio.MemoryReceiveChannel[None]) -> None:
        async for _ in asked:
            await self._reload()

    async def _beat(self) -> None:
        interval = self._manager.watchdog_interval()
        pause = min(_HEARTBEAT, math.inf if interval is None else interval / 3)
        while True:
            if interval is not None:
                self._manager.alive()
            self._audit.write_floods()
            self._tell_status()
            await trio.sleep(pause)

    async def _leave_when_idle(self, timeout: float, life: trio.CancelScope) -> None:
        while (left := self._users.last_left + timeout - time.monotonic()) > 0 or self._users.connections or self._holder:
            await trio.sleep(max(left, timeout / 10))
        self._audit.say(f"nobody was connected for {timeout:g} seconds: leaving until somebody connects")
        life.cancel()

    def _tell_status(self) -> None:
        policy = self._parts.policy
        read = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(policy.loaded))
        held, rules = len(self._holder), len(policy.rules)
        text = f"connections: {self._users.connections}, held namespaces: {held}, rules: {rules}, read {read}"
        self._manager.status(f"{text}; the last reload failed: {self._fault}" if self._fault else text)

    async def _reload(self) -> None:
        self._manager.reloading()
        try:
            # Reading thousands of rules takes seconds, in which others are served.
            settings, policy = await trio.to_thread.run_sync(_load, self._config)
        except ConfigurationError as error:
            self._fault = str(error)
        except Exception as error:
            self._fault = f"a fault of the broker's own: {type(error).__name__}: {error}"
        else:
            self._fault = ""
            self._put_in_force(settings, policy)
        if self._fault:
            self._audit.say(f"the old policy stays in force: {self._fault}")
        self._tell_status()
        self._manager.ready()

    def _put_in_force(self, settings: Configuration, policy: Policy) -> None:
        self._warn(policy)
        self._parts.policy = policy
        self._parts.roster = _roster(settings, self._parts.threads)
        self._users.limits = settings.limits
        self._holder.most_per_user = settings.limits.held_per_user
        self._parts.created.most = settings.limits.created_per_user
        self._parts.threads.per_user = settings.limits.threads_per_user
        self._audit.configure(settings.audit, settings.limits)
        self._audit.say(f"reloaded: {len(policy.rules)} rules from {', '.join(map(str, settings.files))}")

    def _warn(self, policy: Policy) -> None:
        for warning in policy.warnings:
            self._audit.say(f"warning: {warning}")


def _load(place: Path | None) -> tuple[Configuration, Policy]:
    settings = configuration.load(place)
    return settings, Policy(settings)


def _roster(settings: Configuration, threads: AbandonableThreads) -> Roster:
    return Roster(settings.engines, settings.limits.engine_deadline, threads)


def _raise_file_limit() -> None:
    # A service manager that sets it may forbid asking.
    with contextlib.suppress(OSError):
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
