"""The daemon as a whole: it loads the configuration, opens the socket, handles signals, and runs from start to end."""

import contextlib
import ctypes
import gc
import math
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import NamedTuple

import trio

from nsbroker.daemon.audit import Audit, open_audit
from nsbroker.daemon.configuration import Configuration
from nsbroker.daemon.context import Context
from nsbroker.daemon.dispatcher import Dispatcher
from nsbroker.daemon.engines.registry import EngineRegistry
from nsbroker.daemon.limits.abandonable_threads import AbandonableThreads
from nsbroker.daemon.limits.added_interfaces import AddedInterfaces
from nsbroker.daemon.limits.connections import UserRegistry
from nsbroker.daemon.limits.created import CreatedNamespaces
from nsbroker.daemon.listener import Listener, own_socket, passed_socket
from nsbroker.daemon.pace import Step, no_pause, paced
from nsbroker.daemon.policy.rules import Loader, Policy
from nsbroker.daemon.server import Server
from nsbroker.daemon.systemd.service_manager import FdStore, Manager, passed_fds
from nsbroker.daemon.targets.held_store import HeldStore, is_from_store
from nsbroker.errors import ConfigurationError
from nsbroker.linux.libc import release_free_memory
from nsbroker.model.text import escaped

_PR_SET_DUMPABLE = 4
# Seconds between two signs of life for systemd, and between two looks at the clock for rules that end.
_HEARTBEAT = 5.0
_CLOCK_CHECK = 60.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_SWITCH_INTERVAL = 0.00005
_FULL_COLLECTION = 1000
# A reason of more characters is cut, so that it fits into a reply and into the status.
_FAULT_MAX = 1000


def run(address: Path, config: Path | None, idle_timeout: float | None) -> None:
    """Run the daemon until SIGTERM or SIGINT, or until it is idle.

    It is idle when nobody has been connected for `idle_timeout` seconds (None: no limit) and nothing is held.  If the service
    manager passes no socket, it listens on one at `address`.  `config` is a file or a directory as in `rules.load` (None: the
    system's configuration).

    Raises ConfigurationError when the daemon cannot start.  A broken configuration is no reason for that if the service manager
    passes a socket: the daemon then refuses every call, and says why.
    """
    # This comes before any thread can enter a namespace: processes there must not be able to trace us or read our memory.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    _raise_file_limit()
    passed = passed_fds()
    sockets = [passed_fd.fd for passed_fd in passed if not is_from_store(passed_fd)]
    loader = Loader(config)
    loaded = _load_or_explain(loader) if sockets else _Loaded(*loader.load())
    settings = loaded.settings
    audit = open_audit(settings.audit, settings.limits)
    users = UserRegistry(settings.limits)
    held_store = HeldStore(FdStore(), settings.limits.held_per_user)
    for problem in held_store.restore(filter(is_from_store, passed)):
        audit.say(problem)
    daemon = Daemon(loaded, loader, held_store, users, audit)
    if idle_timeout is not None and not sockets:
        raise ConfigurationError(
            "--idle-timeout needs a socket that the service manager passes, and keeps open when the broker exits: "
            "leave the option out, or start the broker from a socket unit"
        )
    listener = passed_socket(sockets) if sockets else own_socket(address)
    # While a thread scans /proc, the event loop waits for up to this interval each time that it wants to run.
    sys.setswitchinterval(_SWITCH_INTERVAL)
    # The objects that exist now live as long as the process, so the garbage collector need not look at them again.  A full
    # collection of all other objects takes a tenth of a second when there are thousands of rules, and everybody waits for it:
    # make it rare.
    gc.freeze()
    gc.enable()
    gc.set_threshold(*gc.get_threshold()[:2], _FULL_COLLECTION)
    try:
        trio.run(daemon.serve, listener, idle_timeout)
    finally:
        listener.close()
        users.close()
        held_store.close()


class _Loaded(NamedTuple):
    """A configuration and its rules.  If there are `problems`, which say why the files are broken, it allows nothing."""

    settings: Configuration
    policy: Policy
    problems: tuple[str, ...] = ()

    @property
    def fault(self) -> str:
        """The first problem, as one line that fits into a reply and into the status; "" if there is none."""
        if not self.problems:
            return ""
        others = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        return f"{self.problems[0][:_FAULT_MAX]}{others}"


class Daemon:
    """The running daemon: the dispatcher, the server, and the configuration that is in force."""

    def __init__(self, loaded: _Loaded, loader: Loader, held_store: HeldStore, users: UserRegistry, audit: Audit) -> None:
        self._loader = loader
        self._held_store = held_store
        self._users = users
        self._audit = audit
        self._manager = Manager()
        limits = loaded.settings.limits
        threads = AbandonableThreads(limits.threads_per_user)
        created = CreatedNamespaces(limits.created_per_user)
        interfaces = AddedInterfaces(limits.interfaces_per_user)
        engines = _make_engines(loaded.settings, threads)
        self._context = Context(loaded.policy, engines, held_store, users, audit, created, interfaces, threads)
        self._context.configuration_fault = loaded.fault
        self._problems = loaded.problems
        self._log_warnings(loaded.policy)
        self._dispatcher = Dispatcher(self._context)
        self._server = Server(self._dispatcher, users, audit)
        self._new_policy = trio.Event()

    async def serve(self, listener: Listener, idle_timeout: float | None) -> None:
        """Serve until a signal or the idle timeout ends it; then answer the calls that have arrived by then."""
        stop = trio.Event()
        for number in _SIGNALS:
            # trio restores this when the receiver below is closed: a signal that arrives while we end must not kill us.
            signal.signal(number, signal.SIG_IGN)
        with trio.open_signal_receiver(*_SIGNALS) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._server.serve, listener.sock, stop)
                async with trio.open_nursery() as running:
                    running.start_soon(self._handle_signals, signals, running, listener)
                    running.start_soon(self._run_heartbeat)
                    running.start_soon(self._record_ended_rules)
                    if idle_timeout is not None:
                        running.start_soon(self._exit_when_idle, idle_timeout, running.cancel_scope)
                self._manager.stopping()
                self._manager.status("stopping: answering the calls that have arrived")
                # First remove the socket's path, so that nobody new finds it; then answer those who have connected already.
                with contextlib.suppress(OSError):
                    listener.withdraw()
                stop.set()
        self._audit.write_suppressed(everyone=True)

    async def _handle_signals(self, signals: AsyncIterator[int], running: trio.Nursery, listener: Listener) -> None:
        # However many SIGHUPs arrive during a reload, they lead to one more reload.
        request_reload, reload_requests = trio.open_memory_channel[None](1)
        running.start_soon(self._reload_on_request, reload_requests)
        # Report that we are ready only here, where signals are received already: one may be sent at once.
        self._send_status()
        self._manager.ready()
        self._audit.say(f"listening on {listener.sock.getsockname()}")
        self._log_problems(self._problems)
        async for number in signals:
            if number != signal.SIGHUP:
                break
            with contextlib.suppress(trio.WouldBlock):
                request_reload.send_nowait(None)
        running.cancel_scope.cancel()

    async def _reload_on_request(self, reload_requests: trio.MemoryReceiveChannel[None]) -> None:
        async for _ in reload_requests:
            await self._reload()

    async def _run_heartbeat(self) -> None:
        interval = self._manager.watchdog_interval()
        pause = min(_HEARTBEAT, math.inf if interval is None else interval / 3)
        while True:
            if interval is not None:
                self._manager.alive()
            self._audit.write_suppressed()
            self._send_status()
            await trio.sleep(pause)

    async def _record_ended_rules(self) -> None:
        while True:
            for rule in self._context.policy.take_ended():
                self._audit.record_expiry(rule)
            self._new_policy = trio.Event()
            # The clock can be set while we wait: look again at least this often.
            with trio.move_on_after(min(_CLOCK_CHECK, self._context.policy.seconds_to_next_end())):
                await self._new_policy.wait()

    async def _exit_when_idle(self, timeout: float, running: trio.CancelScope) -> None:
        while (left := self._users.last_left + timeout - time.monotonic()) > 0 or self._users.connections or self._held_store:
            await trio.sleep(max(left, timeout / 10))
        self._audit.say(f"nobody was connected for {timeout:g} seconds: exiting; the next connection starts the broker again")
        running.cancel()

    def _send_status(self) -> None:
        context = self._context
        loaded = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(context.policy.loaded))
        counts = f"held namespaces: {len(self._held_store)}, rules: {len(context.policy.rules)}"
        text = f"connections: {self._users.connections}, {counts}, loaded {loaded}"
        if context.configuration_fault:
            text = f"every call is refused, because the configuration is broken: {context.configuration_fault}"
        elif context.reload_fault:
            text = f"{text}; the last reload failed: {context.reload_fault}"
        self._manager.status(text)

    def _log_problems(self, problems: Iterable[str]) -> None:
        for problem in problems:
            if self._context.configuration_fault:
                self._audit.say(
                    f"every call is refused, because the configuration is broken: {problem} (repair it, run "
                    "`nsbroker check-config`, then `systemctl reload nsbroker`)",
                    is_error=True,
                )
            else:
                self._audit.say(f"reloading failed, the old policy stays in force: {problem}", is_error=True)

    async def _reload(self) -> None:
        self._manager.reloading()
        # Loading thousands of rules takes seconds, so it runs on a worker thread while clients are served.
        loaded = await trio.to_thread.run_sync(_load_at_a_pace, self._loader)
        if not loaded.fault:
            self._apply(loaded.settings, loaded.policy)
            # A large policy that was replaced lay among what stays.
            await trio.to_thread.run_sync(release_free_memory)
        elif self._context.configuration_fault:
            self._context.configuration_fault = loaded.fault
        else:
            self._context.reload_fault = loaded.fault
        self._log_problems(loaded.problems)
        self._send_status()
        self._manager.ready()

    def _apply(self, settings: Configuration, policy: Policy) -> None:
        self._log_warnings(policy)
        for rule in self._context.policy.take_ended():
            self._audit.record_expiry(rule)
        self._context.policy = policy
        self._context.configuration_fault = self._context.reload_fault = ""
        self._dispatcher.choose_methods()
        self._new_policy.set()
        self._context.engines = _make_engines(settings, self._context.threads)
        self._users.limits = settings.limits
        self._held_store.most_per_user = settings.limits.held_per_user
        self._context.created.most = settings.limits.created_per_user
        self._context.interfaces.most = settings.limits.interfaces_per_user
        self._context.threads.per_user = settings.limits.threads_per_user
        self._audit.configure(settings.audit, settings.limits)
        self._audit.say(f"reloaded: {len(policy.rules)} rules from {', '.join(map(str, settings.files))}")

    def _log_warnings(self, policy: Policy) -> None:
        for warning in policy.warnings:
            self._audit.say(f"warning: {warning}")


def _load_at_a_pace(loader: Loader) -> _Loaded:
    with paced() as step:
        return _load_or_explain(loader, step)


def _load_or_explain(loader: Loader, step: Step = no_pause) -> _Loaded:
    """Load the configuration.  If that fails, return one that allows nothing, and why it failed."""
    try:
        return _Loaded(*loader.load(step))
    except ConfigurationError as error:
        problems = error.problems
    except Exception as error:
        problems = (f"internal error: {type(error).__name__}: {error}",)
    # The text can contain names of files and keys with any characters, and goes into replies and into the status.
    nothing = Configuration()
    return _Loaded(nothing, Policy(nothing), tuple(map(escaped, problems)))


def _make_engines(settings: Configuration, threads: AbandonableThreads) -> EngineRegistry:
    return EngineRegistry(settings.engines, settings.limits.engine_deadline, threads)


def _raise_file_limit() -> None:
    # The unit may forbid this system call (SystemCallFilter=); then the limit that the service manager has set applies.
    with contextlib.suppress(OSError):
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
