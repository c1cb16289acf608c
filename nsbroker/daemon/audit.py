"""The audit record of every decision: one journal entry, or one line of JSON on standard error where there is no journal.

The record comes first: nothing is handed over, held or released before its record has been written.  If the journal is busy,
the record waits in a queue, and its call waits with it.  Records contain facts that the broker knows itself.  Names that others
have chosen are escaped, so that nobody can forge a record by giving something a special name.
"""

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Iterable

import trio

from nsbroker.daemon.configuration import AuditSettings, Limits
from nsbroker.daemon.limits.rate_limit import RateLimit, TokenBucket
from nsbroker.daemon.peer import Peer
from nsbroker.daemon.record_queue import NOBODY, RecordQueue
from nsbroker.daemon.record_sink import LINE_MAX, JournalSink, Record, RecordSink, StderrSink, stderr
from nsbroker.daemon.systemd.journal import PLACE
from nsbroker.errors import RecordFailed
from nsbroker.model.text import escaped
from nsbroker.namespace import Namespace

# Text from clients is cut to this many characters, so that every record fits into a line even if all of them are escaped.
_TEXT_MAX = 250
_STDERR = 2
# journald takes this for the priority of a line (SyslogLevelPrefix= in systemd.exec(5), sd-daemon(3)).
_ERROR_PREFIX = "<3>"
# At most this many records of refusals wait for the journal.  Their calls do not wait, so nothing else limits their number.
_REFUSALS_MAX = 1024


class Audit:
    """Writes audit records, and log lines about the broker itself.

    No user can fill the journal by calling the broker often.  Calls of one user that are refused, fail or are malformed are
    written up to a limit, and only counted beyond it.  Allowed calls of one user are slowed down to `records-per-user` of [limits].
    """

    def __init__(self, sink: RecordSink, settings: AuditSettings, limits: Limits) -> None:
        self._sink = sink
        self._settings = settings
        self._deadline = limits.record_deadline
        self._refusals = RateLimit()
        self._bucket = TokenBucket(limits.records_per_user)
        self._queue = RecordQueue()
        # One call at a time writes the queue.  The others wait here until it has written their records.  If it stops first, one of
        # them continues.
        self._is_flushing = False
        self._waiting: dict[Peer, trio.Event] = {}
        self._in_trouble = False
        self.verdicts: dict[str, int] = defaultdict(int)
        """How many decisions had each verdict, also those that are only counted in the records."""

    def configure(self, settings: AuditSettings, limits: Limits) -> None:
        """Replace the settings and limits, after a reload."""
        self._settings = settings
        self._deadline = limits.record_deadline
        self._bucket.most = limits.records_per_user

    def record(
        self,
        peer: Peer,
        method: str,
        target: str,
        verdict: str,
        *,
        rule: str = "",
        wanted: str = "",
        namespaces: Iterable[Namespace | str] = (),
        error: str = "",
    ) -> None:
        """Write one record, or put it into the queue.

        As long as `is_pending` returns True, an allowed call must not have any effect: await `settle` first.  `verdict`, `wanted`
        and the other arguments are those of `Record`; `namespaces` are handles (borrowed) or ids.  Raises RecordFailed when the
        record of an allowed call cannot be written at all.
        """
        self.verdicts[verdict] += 1
        allowed = verdict == "allowed"
        if allowed:
            self._bucket.charge(peer.user)
        elif not self._refusals.admits(peer.user):
            return
        opened = " ".join(map(str, namespaces))
        if error:
            error = error[:_TEXT_MAX].encode(errors="backslashreplace").decode()
        record = Record(
            method,
            target[:_TEXT_MAX],
            verdict,
            rule,
            peer.uid,
            peer.gid,
            peer.pid,
            peer.first_unit() or "",
            wanted[:_TEXT_MAX],
            opened,
            error,
            time.time(),
            peer.anonymous,
            peer.container,
        )
        try:
            if (self._queue or not self._write(record)) and (allowed or self._queue.without_call < _REFUSALS_MAX):
                self._queue.add(peer.user, peer if allowed else None, record)
        except RecordFailed:
            # A refusal stays a refusal, whether or not it could be recorded.
            if allowed:
                raise

    def is_pending(self, peer: Peer) -> bool:
        """Return whether the peer's call has to await `settle` before it may have an effect."""
        return self._queue.has(peer) or self._bucket.delay(peer.user) > 0

    async def settle(self, peer: Peer) -> None:
        """Wait until the records of the peer's call are written, and until its user is within the limit again.

        Raises RecordFailed when the journal does not accept the records before the deadline.  They are dropped then, and when this
        is cancelled, since the call fails and what they record does not happen.
        """
        try:
            await trio.sleep(self._bucket.delay(peer.user))
            with trio.move_on_after(self._deadline):
                await self._flush(peer)
            if self._queue.has(peer):
                self._give_up(peer)
        finally:
            self._queue.drop(peer)

    async def _flush(self, peer: Peer) -> None:
        """Wait until the peer's records are written."""
        try:
            while self._queue.has(peer):
                if self._is_flushing:
                    self._waiting[peer] = trio.Event()
                    await self._waiting[peer].wait()
                else:
                    await self._write_until(peer)
        finally:
            self._waiting.pop(peer, None)
            if not self._is_flushing:
                # Somebody else goes on, if anybody waits.
                for waiting in self._waiting.values():
                    waiting.set()
                    break

    async def _write_until(self, peer: Peer) -> None:
        """Write what is queued until the peer's records are written."""
        self._is_flushing = True
        try:
            while self._queue.has(peer):
                if not self._write_first():
                    await self._sink.wait_writable()
        finally:
            self._is_flushing = False

    def _write_first(self) -> bool:
        """Write the first record of the queue now.  Return False when the sink is busy.  Raises RecordFailed."""
        if not self._write(self._queue.first()):
            return False
        done = self._queue.remove_first()
        if done is not None and done in self._waiting:
            self._waiting.pop(done).set()
        return True

    def _give_up(self, peer: Peer) -> None:
        self._report_trouble("it does not read them")
        if self._settings.without_journal == "refuse":
            raise RecordFailed(f"{self._sink.name} took no record within {self._deadline:g} s")
        for record in self._queue.records_of(peer):
            self._write_to_stderr(record)

    def _write(self, record: Record) -> bool:
        """Write a record now.  Return False when the sink is busy and the record has to wait.  Raises RecordFailed."""
        try:
            self._sink.write(record)
        except BlockingIOError:
            return False
        except OSError as error:
            self._report_trouble(error.strerror or str(error))
            if self._settings.without_journal == "refuse":
                raise RecordFailed(error.strerror or str(error)) from error
            self._write_to_stderr(record)
        else:
            if self._in_trouble:
                self._report_trouble("")
        return True

    @staticmethod
    def _write_to_stderr(record: Record) -> None:
        try:
            StderrSink().write(record)
        except OSError as error:
            raise RecordFailed(f"neither the journal nor standard error takes records: {error}") from error

    def _report_trouble(self, trouble: str) -> None:
        """Log once that the sink takes no records, and once that it does again (`trouble` is "" then)."""
        if self._in_trouble is bool(trouble):
            return
        self._in_trouble = bool(trouble)
        if not trouble:
            self.say(f"{self._sink.name} takes records again")
        elif self._settings.without_journal == "refuse":
            self.say(f"{self._sink.name} takes no records ({trouble}): nothing is opened until it does")
        else:
            self.say(f"{self._sink.name} takes no records ({trouble}): they follow here, on standard error")

    def write_suppressed(self, *, everyone: bool = False) -> None:
        """Write the records that wait, and the number of refusals suppressed for each user whose time window has ended.

        With `everyone`, the windows that still run are ended, too.  The daemon calls this at intervals, and when it exits.
        """
        with contextlib.suppress(RecordFailed):
            while self._queue and self._write_first():
                pass
        if self._queue.has_user(NOBODY):
            # The numbers add up until those that wait have been written.  So at most one for each user waits.
            return
        for user, count in self._refusals.end_windows(everyone=everyone):
            self._write_or_enqueue(Record("", "", "suppressed", "", user, None, None, time=time.time(), count=count))

    def record_expiry(self, rule: str) -> None:
        """Record that a rule has ended."""
        self._write_or_enqueue(Record("", "", "expired", rule, None, None, None, time=time.time()))

    def _write_or_enqueue(self, record: Record) -> None:
        """Write a record about the broker itself now or, if that fails, later.

        None of them is dropped.  There is one for each rule that ends, and `write_suppressed` limits the others.
        """
        with contextlib.suppress(RecordFailed):
            if not self._queue and self._write(record):
                return
        self._queue.add(NOBODY, None, record)

    @staticmethod
    def say(text: str, *, is_error: bool = False) -> None:
        """Write one log line about the broker itself to standard error.  It is dropped when standard error takes nothing."""
        line = f"{_ERROR_PREFIX if is_error and _is_journal_stderr() else ''}nsbroker: {escaped(text)}\n".encode()
        with contextlib.suppress(OSError):
            stderr().write(line[:LINE_MAX])


def _is_journal_stderr() -> bool:
    """Return whether standard error leads to journald (JOURNAL_STREAM in systemd.exec(5))."""
    facts = os.fstat(_STDERR)
    return os.environ.get("JOURNAL_STREAM") == f"{facts.st_dev}:{facts.st_ino}"


def open_audit(settings: AuditSettings, limits: Limits) -> Audit:
    """Return an Audit that writes to the journal where journald runs, and to standard error otherwise."""
    return Audit(JournalSink() if PLACE.exists() else StderrSink(), settings, limits)
