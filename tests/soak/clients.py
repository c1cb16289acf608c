"""The clients whose calls are measured.  They call at a steady rate, check each reply, and record how long it took.

The time of a call starts when the call was due if the call before it took too long, and otherwise when it was made.  So a
late wake-up by the kernel is not counted for the broker; it is recorded separately.
"""

import contextlib
import os
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from nsbroker.client.blocking import Broker, connect
from nsbroker.errors import BrokerError, ConnectionFailed, ConnectionLost, NsbrokerError
from tests.soak.crew import CLIENTS, Worker
from tests.soak.scene import INNOCENT, ROOT, Scene, socket_network

KINDS = ("open", "connect", "socket", "container")
"""Kinds of calls: Open and WhoAmI on a connection that stays, the same on a new connection, OpenSocket, Open of a container."""
OUTCOMES = ("right", "refused", "wrong", "lost")
_RATES = {"open": 10.0, "connect": 4.0, "socket": 4.0, "container": 4.0}
_TIMEOUT = 10.0
_BEHIND_MAX = 10.0
_AGAIN = 0.02
_SAMPLE = struct.Struct("=dddBBBB")
_ERRORS_MAX = 20


class Sample(NamedTuple):
    """One call.

    `at` is when it was due, `taken` the seconds until its reply, `late` the seconds by which the kernel woke the client late,
    and `again` how often it was repeated because the broker hung up.
    """

    who: str
    kind: str
    at: float
    taken: float
    late: float
    outcome: str
    again: int


class Wrong(Exception):
    """A reply is not right."""


Call = Callable[[Broker], None]


class Clients:
    """The processes of the innocent user and of root, one for each kind of call."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._files: list[tuple[str, str, int]] = []
        self._words = scene.folder / "words"
        self._workers: list[Worker] = []
        for who, uid in (("innocent", INNOCENT), ("root", ROOT)):
            for number, kind in enumerate(KINDS):
                path = scene.folder / f"{who}-{kind}-{len(list(scene.folder.iterdir()))}"
                fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                words = os.open(self._words, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                self._files.append((who, kind, os.open(path, os.O_RDONLY)))
                rate = _RATES[kind] / (1 if uid else 2)
                work = _Work(scene, uid, kind, rate, number / len(KINDS) / rate, fd, words)
                self._workers.append(Worker(f"{who}-{kind}", uid, CLIENTS, work.run))
                os.close(fd)
                os.close(words)

    def samples(self) -> list[Sample]:
        """Return the calls that were recorded since the last call of this method."""
        found = []
        for who, kind, fd in self._files:
            size = os.fstat(fd).st_size
            place = os.lseek(fd, 0, os.SEEK_CUR)
            data = os.read(fd, (size - place) // _SAMPLE.size * _SAMPLE.size)
            for at, taken, late, outcome, again, _, _ in _SAMPLE.iter_unpack(data):
                found.append(Sample(who, kind, at, taken, late, OUTCOMES[outcome], again))
        return found

    def words(self) -> list[str]:
        """Return the first few errors of each process, as text."""
        return self._words.read_text().splitlines() if self._words.exists() else []

    def stop(self) -> None:
        """Stop all processes."""
        for worker in self._workers:
            worker.stop()
        for _, _, fd in self._files:
            os.close(fd)

    def __enter__(self) -> "Clients":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Work:
    """The work of one client process."""

    def __init__(self, scene: Scene, uid: int, kind: str, rate: float, offset: float, fd: int, words: int) -> None:
        self._scene = scene
        self._uid = uid
        self._kind = kind
        self._interval = 1 / rate
        self._offset = offset
        self._fd = fd
        self._words = words
        self._reported = 0
        self._broker: Broker | None = None

    def run(self, count: Callable[[int], None]) -> None:
        calls = _calls(self._scene, self._uid, self._kind)
        due = time.monotonic() + self._offset
        for call in calls:
            now = time.monotonic()
            late = 0.0
            if now < due:
                time.sleep(due - now)
                start = time.monotonic()
                late = start - due
            else:
                start = max(due, now - _BEHIND_MAX)
            outcome, again = self._call(call)
            taken = time.monotonic() - start
            os.write(self._fd, _SAMPLE.pack(start, taken, late, OUTCOMES.index(outcome), min(again, 255), 0, 0))
            count(1)
            due = max(due, start - self._interval) + self._interval

    def _call(self, call: Call) -> tuple[str, int]:
        """Make one call, and repeat it when the broker hangs up.  Returns the outcome and how often it was repeated."""
        again = 0
        end = time.monotonic() + _TIMEOUT
        while True:
            try:
                if self._broker is None:
                    self._broker = connect(self._scene.address, timeout=_TIMEOUT)
                call(self._broker)
            except (ConnectionLost, ConnectionFailed) as error:
                self._drop()
                if time.monotonic() > end:
                    self._report(error)
                    return "lost", again
                again += 1
                time.sleep(_AGAIN)
                continue
            except BrokerError as error:
                self._report(error)
                self._drop()
                return "refused", again
            except (NsbrokerError, Wrong, OSError) as error:
                self._report(error)
                self._drop()
                return "wrong", again
            if self._kind == "connect":
                self._drop()
            return "right", again

    def _drop(self) -> None:
        broker, self._broker = self._broker, None
        if broker is not None:
            with contextlib.suppress(OSError):
                broker.close()

    def _report(self, error: Exception) -> None:
        self._reported += 1
        if self._reported <= _ERRORS_MAX:
            os.write(self._words, f"uid {self._uid}, {self._kind}: {type(error).__name__}: {error}\n".encode())


def _calls(scene: Scene, uid: int, kind: str) -> Iterator[Call]:
    """Yield calls of one kind without end."""
    own = os.stat("/proc/self/ns/net").st_ino
    plain: Sequence[Call] = (
        lambda broker: _check_peer(broker, uid),
        lambda broker: _check_open(broker, "name:innocent", scene.network),
        lambda broker: _check_open(broker, "self", own),
        lambda broker: _check_open(broker, f"pid:{os.getpid()}", own),
    )
    kinds: dict[str, Sequence[Call]] = {
        "open": plain,
        "connect": plain,
        "socket": [lambda broker: _check_socket(broker, scene)],
        "container": [lambda broker: _check_open(broker, f"crun:{scene.container_name}", scene.container)]
        if scene.container
        else plain,
    }
    while True:
        yield from kinds[kind]


def _check_peer(broker: Broker, uid: int) -> None:
    peer = broker.who_am_i()
    if peer.uid != uid or peer.anonymous:
        raise Wrong(f"WhoAmI says {peer}")


def _check_open(broker: Broker, target: str, inode: int) -> None:
    with broker.open(target, "net") as ns:
        # The handle reads its type and inode from the descriptor itself.
        if ns.inode != inode or os.fstat(ns.fileno()).st_ino != inode:
            raise Wrong(f"{target} is {ns}, and should be net:[{inode}]")


def _check_socket(broker: Broker, scene: Scene) -> None:
    with broker.socket("name:innocent") as sock:
        if sock.family != socket.AF_INET or socket_network(sock) != scene.cookie:
            raise Wrong(f"the socket {sock} is in the network {socket_network(sock)}, and should be in {scene.cookie}")


def delayed(samples: Iterable[Sample], spans: Sequence[tuple[float, float]]) -> list[Sample]:
    """Return the calls that were due within one of the spans of time, and those that had to wait for such a call.

    A client makes one call after the other.  After a span in which a call took long, the client has many calls to make up for.
    """
    found = []
    busy_until: dict[tuple[str, str], float] = {}
    for one in sorted(samples, key=lambda one: one.at):
        client = one.who, one.kind
        if one.at < busy_until.get(client, 0.0) or any(begun <= one.at <= over for begun, over in spans):
            busy_until[client] = max(busy_until.get(client, 0.0), one.at + one.taken)
            found.append(one)
    return found


def percentile(values: Iterable[float], share: float) -> float:
    """Return the value below which the given share of the values lies; NaN if there are no values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")
