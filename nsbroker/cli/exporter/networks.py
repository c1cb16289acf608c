"""All networks that the rules let this user see, held open and kept up to date by two threads.

One thread watches which networks come and go.  The other one lists the containers after a change, opens what is new and closes what
is gone.  So `read`, which a scrape calls, asks nobody: no engine and no broker can delay it.
"""

import contextlib
import os
import resource
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from nsbroker.cli import terminal
from nsbroker.cli.exporter.open_network import DESCRIPTORS, OpenNetwork, Statistics
from nsbroker.cli.exporter.targets import Target, find_targets, keep_silent
from nsbroker.client import blocking
from nsbroker.client.blocking import Broker
from nsbroker.errors import (
    ConnectionFailed,
    ConnectionLost,
    NoSuchTarget,
    NotANamespace,
    NsbrokerError,
    PermissionDenied,
    TargetChanged,
    Timeout,
)
from nsbroker.model.description import WatchEvent

# Seconds between two lists after a change, until the next change.  A new network can have no container yet.
_PAUSES = (0.2, 1.0, 3.0, 10.0)
_PAUSE_MAX = 30.0
# After a list that took some time, wait for this many times longer, up to a few seconds: the broker has other work.
_SHARE = 2.0
_REST_MAX = 3.0
_RETRY = 2.0
# While the broker or an engine is away, nobody says which networks are gone, and open files keep them alive.
_AWAY_MAX = 60.0
# So many descriptors are left for connections to the broker, for requests, and for opening a network anew before it is closed.
_SPARE_FILES = 32
_OF_INTEREST = (WatchEvent.READY, WatchEvent.ADDED, WatchEvent.GONE, WatchEvent.MISSED)


class _Held(NamedTuple):
    """A network: its target, what is open of it (None: it could not be opened), and when the rules for that were loaded.

    `is_final`: trying again makes no sense before other rules are loaded.
    """

    target: Target
    network: OpenNetwork | None
    loaded: float
    is_final: bool = True


class Reading(NamedTuple):
    """What was read of one network; `statistics` is None when it could not be opened or read."""

    target: Target
    statistics: Statistics | None


class View(NamedTuple):
    """What is known at one time: all networks, whether the broker answers, and why engines do not."""

    readings: Sequence[Reading]
    broker_up: bool
    silent: Mapping[str, str]


class Networks:
    """The networks that are held open, from `start` on until the process ends.

    `timeout` is in seconds, for each step of a call to the broker.  `read` can be called from any thread.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        # Held while files are read or closed, but never while the broker is asked.
        self._lock = threading.Lock()
        self._held: dict[int, _Held] = {}
        self._silent: dict[str, str] = {}
        self._silent_since: dict[str, float] = {}
        self._answered = time.monotonic()
        self._broker_up = True
        self._changed = threading.Event()
        self._said: dict[str, str] = {}

    def start(self) -> None:
        """Open what there is, and begin to follow the changes.  Raises the errors of `nsbroker.connect` and `Broker.list`."""
        with blocking.connect(timeout=self._timeout) as broker:
            self._update(broker)
        for run in (self._follow, self._keep_up):
            threading.Thread(target=_run_or_end, args=(run,), name=run.__name__, daemon=True).start()

    def read(self) -> View:
        """Read all networks.  A network that cannot be read costs nothing but its own numbers."""
        with self._lock:
            readings = [Reading(held.target, _read(held.network)) for held in self._held.values()]
            return View(readings, self._broker_up, self._silent)

    def _follow(self) -> None:
        """Have the networks listed after each change.  Runs for ever, on a thread of its own."""
        while True:
            try:
                with blocking.connect(timeout=self._timeout) as broker, broker.watch(["net"]) as events:
                    for event in events:
                        if event.event in _OF_INTEREST:
                            self._changed.set()
            except (ConnectionFailed, ConnectionLost, OSError):
                # The other thread will say so, or find that the broker was only restarted.
                self._changed.set()
            except NsbrokerError as error:
                self._say("watch", str(error))
            time.sleep(_RETRY)

    def _keep_up(self) -> None:
        """List the networks after changes, and at times without one.  Runs for ever, on a thread of its own."""
        pauses, rest = iter(_PAUSES), 0.0
        while True:
            if self._changed.wait(max(next(pauses, _PAUSE_MAX), rest)):
                # Let more changes arrive.
                time.sleep(max(_PAUSES[0], rest))
                pauses = iter(_PAUSES)
            self._changed.clear()
            began = time.monotonic()
            self._refresh()
            rest = min(_SHARE * (time.monotonic() - began), _REST_MAX)

    def _refresh(self) -> None:
        try:
            with blocking.connect(timeout=self._timeout) as broker:
                self._update(broker)
        except (NsbrokerError, OSError) as error:
            self._broker_up = False
            self._say("broker", f"what there is cannot be listed: {error}")
            if time.monotonic() - self._answered > _AWAY_MAX:
                self._drop_all()

    def _update(self, broker: Broker) -> None:
        """Open the networks that are new, and close those that are gone.  Raises the errors of the calls to the broker."""
        loaded = broker.status().loaded
        containers, unavailable = broker.containers()
        listed = broker.list(["net"])
        targets = find_targets(containers, listed)
        silent = {one.engine: one.reason for one in unavailable}
        now = time.monotonic()
        self._silent_since = {engine: self._silent_since.get(engine, now) for engine in silent}
        with self._lock:
            kept = keep_silent(targets, {inode: held.target for inode, held in self._held.items()}, silent)
            for inode in [inode for inode in self._held if inode not in targets]:
                _close(self._held.pop(inode))
        for inode in kept:
            target = targets.pop(inode)
            if now - self._silent_since[target.labels.engine] > _AWAY_MAX:
                self._put(inode, _Held(target, None, loaded, is_final=False))
        for engine, reason in silent.items():
            self._say(engine, f"the containers of {engine} are not listed: {reason}")
        self._open_all(broker, targets, loaded)
        self._silent = silent
        self._broker_up, self._answered = True, now
        for subject in list(self._said):
            if subject not in ("targets", "files", "watch", *silent):
                del self._said[subject]

    def _open_all(self, broker: Broker, targets: Mapping[int, Target], loaded: float) -> None:
        failures: dict[str, str] = {}
        slow: set[str] = set()
        room, left_out = _room(), 0
        for inode, target in targets.items():
            if self._is_done(inode, target, loaded):
                continue
            if target.labels.engine in slow:
                self._put(inode, _Held(target, None, loaded, is_final=False))
                continue
            is_new = not self._is_open(inode)
            if is_new and room <= 0:
                left_out += 1
                self._put(inode, _Held(target, None, loaded, is_final=False))
                continue
            try:
                network = OpenNetwork.open(broker, target.text)
            except (NoSuchTarget, NotANamespace, TargetChanged):
                continue  # It has ended meanwhile.  A name can outlive its mount for a moment.
            except (ConnectionFailed, ConnectionLost) as error:
                if not isinstance(error, Timeout):
                    raise
                # Do not wait for each of its containers.
                slow.add(target.labels.engine)
                failures[target.text] = str(error)
                self._put(inode, _Held(target, None, loaded, is_final=False))
            except NsbrokerError as error:
                failures[target.text] = str(error)
                self._put(inode, _Held(target, None, loaded, is_final=isinstance(error, PermissionDenied)))
            else:
                room -= is_new
                self._put(inode, _Held(target, network, loaded))
        advice = "would take too many open files: raise the hard limit, with LimitNOFILE= in its unit or with `ulimit -Hn`"
        self._say("files", f"{left_out} of {len(targets)} networks {advice}" if left_out else "")
        first = next(iter(failures.values()), "")
        self._say("targets", first and f"{len(failures)} of {len(targets)} networks cannot be opened: {first}")

    def _is_done(self, inode: int, target: Target, loaded: float) -> bool:
        """Return whether nothing is left to do for a network with the rules that were loaded at `loaded`, but for its labels."""
        with self._lock:
            held = self._held.get(inode)
            if held is None or not held.is_final or held.loaded != loaded:
                return False
            if held.network is None and held.target.text != target.text:
                # Another container has this network now, and rules can allow what they refused for the one of before.
                return False
            self._held[inode] = held._replace(target=target)
            return True

    def _is_open(self, inode: int) -> bool:
        with self._lock:
            held = self._held.get(inode)
            return held is not None and held.network is not None

    def _put(self, inode: int, new: _Held) -> None:
        """Put a network (taken) into the place of what was there before, which is closed."""
        with self._lock:
            old = self._held.get(inode)
            self._held[inode] = new
            if old is not None:
                _close(old)

    def _drop_all(self) -> None:
        with self._lock:
            while self._held:
                _close(self._held.popitem()[1])

    def _say(self, subject: str, text: str) -> None:
        """Print a line about something that may fail again and again, unless it is the line that was printed last about it."""
        if text and self._said.get(subject) != text:
            terminal.print_message(text)
        self._said[subject] = text


def _run_or_end(run: Callable[[], None]) -> None:
    """Run a function that never returns.  End the process if it fails: a program that knows no changes would report what was."""
    try:
        run()
    except Exception as error:
        terminal.print_message(f"a fault in nsbroker itself: {type(error).__name__}: {error} (please report it)")
        os._exit(1)


def _room() -> int:
    """Return how many more networks can be opened before the limit of this process is near."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (limit - len(os.listdir("/proc/self/fd")) - _SPARE_FILES) // DESCRIPTORS


def _read(network: OpenNetwork | None) -> Statistics | None:
    if network is not None:
        with contextlib.suppress(OSError, ValueError, LookupError):
            return network.read()
    return None


def _close(held: _Held) -> None:
    if held.network is not None:
        held.network.close()
