"""The record of every decision: one journal entry, or where there is no journal one line of JSON on standard error.

Records come before what they record: nothing leaves, is held or released before its record was taken.  A record that finds
the journal busy waits in a queue, and the call whose it is waits with it.  Fields hold what the broker knows, names that
others give come escaped: no record can be forged by naming a thing.
"""

import contextlib
import os
import time
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import trio

from nsbroker.daemon.configuration import AuditSettings, Limits
from nsbroker.daemon.limits.rate_limit import Pace, RateLimit
from nsbroker.daemon.peer import Peer
from nsbroker.daemon.record_sink import LINE_MAX, JournalSink, Record, RecordSink, StderrSink, can_write_stderr, printable
from nsbroker.daemon.systemd.journal import PLACE
from nsbroker.errors import RecordFailed
from nsbroker.namespace import Namespace

# What clients write is cut, so that every record fits, even if each character is written as six.
_TEXT_MAX = 250
_STDERR = 2
# Records of refusals that wait for the journal.  Their calls do not wait with them, so nothing else bounds their number.
_REFUSALS_MAX = 1024


class _Waiting(NamedTuple):
    peer: Peer | None
    record: Record


class Audit:
    """Takes records, and the few words that the broker has to say of itself.

    Nobody shall fill the journal by asking: what a user was refused is written out up to a limit and then counted, and
    calls that were allowed are slowed down to `records-per-user` of [limits].
    """

    def __init__(self, sink: RecordSink, settings: AuditSettings, limits: Limits) -> None:
        self._sink = sink
        self._settings = settings
        self._deadline = limits.record_deadline
        self._refusals = RateLimit()
        self._pace = Pace(limits.records_per_user)
        self._queue: deque[_Waiting] = deque()
        self._unwritten: dict[Peer, int] = {}
        self._writing = trio.Lock()
        self._stuck = False

    def configure(self, settings: AuditSettings, limits: Limits) -> None:
        """Take other settings."""
        self._settings = settings
        self._deadline = limits.record_deadline
        self._pace.most = limits.records_per_user

    def record(
        self,
        peer: Peer,
        verb: str,
        target: str,
        verdict: str,
        *,
        rule: str = "",
        wanted: str = "",
        namespaces: Iterable[Namespace] = (),
        error: str = "",
    ) -> None:
        """Write one record, or have it wait; of what is allowed nothing may happen as long as `is_pending`.

        Raises RecordFailed when it cannot be written at all.
        """
        allowed = verdict == "allowed"
        if allowed:
            if peer.user != 0:
                self._pace.charge(peer.user)
        elif not self._refusals.admits(peer.user):
            return
        spaces = " ".join(map(str, namespaces))
        target, error = target[:_TEXT_MAX], error[:_TEXT_MAX].encode(errors="backslashreplace").decode()
        record = Record(
            verb,
            target,
            verdict,
            rule,
            peer.uid,
            peer.gid,
            peer.pid,
            peer.first_unit() or "",
            wanted[:_TEXT_MAX],
            spaces,
            error,
            time.time(),
            peer.anonymous,
        )
        try:
            if self._queue or not self._write(record):
                self._enqueue(peer if allowed else None, record)
        except RecordFailed:
            # What is refused is refused, with or without a record.
            if allowed:
                raise

    def is_pending(self, peer: Peer) -> bool:
        """Whether the peer's call has to `settle` before anything comes of it."""
        return peer in self._unwritten or (peer.user != 0 and self._pace.delay(peer.user) > 0)

    async def settle(self, peer: Peer) -> None:
        """Wait until the records of the peer's call are written, and until its user is within the limit again.

        Raises RecordFailed when the journal does not take them in time: they are forgotten then, since what they record
        must not happen.
        """
        await trio.sleep(self._pace.delay(peer.user) if peer.user != 0 else 0)
        try:
            with trio.move_on_after(self._deadline):
                await self._flush(peer)
            if peer in self._unwritten:
                self._give_up(peer)
        finally:
            self._forget(peer)

    async def _flush(self, peer: Peer) -> None:
        async with self._writing:
            while peer in self._unwritten:
                if self._write(self._queue[0].record):
                    self._dequeue()
                else:
                    await self._sink.wait_writable()

    def _give_up(self, peer: Peer) -> None:
        self._note("it does not read them")
        if self._settings.without_journal == "refuse":
            raise RecordFailed(f"{self._sink.name} took no record within {self._deadline:g} s")
        for waiting in self._queue:
            if waiting.peer is peer:
                self._write_instead(waiting.record)

    def _write(self, record: Record) -> bool:
        """Whether the record was taken; False when it has to wait.  Raises RecordFailed."""
        try:
            self._sink.write(record)
        except BlockingIOError:
            return False
        except OSError as error:
            self._note(error.strerror or str(error))
            if self._settings.without_journal == "refuse":
                raise RecordFailed(error.strerror or str(error)) from error
            self._write_instead(record)
        else:
            self._note("")
        return True

    @staticmethod
    def _write_instead(record: Record) -> None:
        try:
            StderrSink().write(record)
        except OSError as error:
            raise RecordFailed(f"neither the journal nor standard error takes records: {error}") from error

    def _enqueue(self, peer: Peer | None, record: Record) -> None:
        if peer is not None:
            self._unwritten[peer] = self._unwritten.get(peer, 0) + 1
        elif len(self._queue) - sum(self._unwritten.values()) >= _REFUSALS_MAX:
            return
        self._queue.append(_Waiting(peer, record))

    def _dequeue(self) -> None:
        peer = self._queue.popleft().peer
        if peer is not None:
            self._unwritten[peer] -= 1
            if not self._unwritten[peer]:
                del self._unwritten[peer]

    def _forget(self, peer: Peer) -> None:
        if self._unwritten.pop(peer, 0):
            self._queue = deque(waiting for waiting in self._queue if waiting.peer is not peer)

    def _note(self, trouble: str) -> None:
        """Say once that the journal takes no records, and once that it does again."""
        if self._stuck is bool(trouble):
            return
        self._stuck = bool(trouble)
        if not trouble:
            self.say(f"{self._sink.name} takes records again")
        elif self._settings.without_journal == "refuse":
            self.say(f"{self._sink.name} takes no records ({trouble}): nothing is opened until it does")
        else:
            self.say(f"{self._sink.name} takes no records ({trouble}): they follow here")

    def write_floods(self, *, everyone: bool = False) -> None:
        """Write what waits, and how many more there were of each user whose time is over (or of everyone).

        For calling now and then.
        """
        with contextlib.suppress(RecordFailed):
            while self._queue and self._write(self._queue[0].record):
                self._dequeue()
            for uid, count in self._refusals.ended(everyone=everyone):
                record = Record("", "", "flood", "", uid, -1, 0, time=time.time(), count=count)
                if self._queue or not self._write(record):
                    self._enqueue(None, record)

    @staticmethod
    def say(text: str) -> None:
        """One line about the broker itself on standard error; lost when nobody takes it."""
        line = f"nsbroker: {printable(text)}\n".encode()
        with contextlib.suppress(OSError):
            if can_write_stderr():
                os.write(_STDERR, line[:LINE_MAX])


def open_audit(settings: AuditSettings, limits: Limits) -> Audit:
    """The journal where it runs, standard error otherwise."""
    return Audit(JournalSink() if PLACE.exists() else StderrSink(), settings, limits)
