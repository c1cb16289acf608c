"""The record of every decision: one journal entry, or where there is no journal one line of JSON on standard error.

Records come before what they record: an fd leaves only when its record was taken.  Fields hold what the broker knows,
names that others give come escaped: no record can be forged by naming a thing.
"""

import contextlib
import os
import select
import time
from collections.abc import Callable, Iterable

import msgspec
from msgspec import Struct

from nsbroker.daemon.configuration import AuditSettings
from nsbroker.daemon.journal import PLACE, Journal
from nsbroker.daemon.limits.rate_limit import RateLimit
from nsbroker.daemon.peer import Peer
from nsbroker.namespace import Namespace

IDENTIFIER = "nsbroker"

# Message ids are made once (`journalctl --new-id128`) and never change: they are how records are found.
ALLOWED = "5a3bf55dda5f4587aa13a5ef8904f2d0"
DENIED = "b3b4c803df4b4a33aea13a516e5bba75"
FAILED = "25e0fec9b5ca48679827133c5108ea84"
FLOOD = "4a1a4dc3c5c34a70b7a1d0d7f0d6e4a6"
_WARNING = 4
_INFO = 6
_KINDS = {"allowed": (ALLOWED, _INFO), "denied": (DENIED, _WARNING), "failed": (FAILED, _WARNING), "flood": (FLOOD, _WARNING)}

# A pipe takes a write of this size whole or not at all (PIPE_BUF).
_LINE_MAX = 4096
# What clients write is cut, so that every record fits, even if each character is written as six.
_TEXT_MAX = 250
_STDERR = 2
_stderr = select.poll()
_stderr.register(_STDERR, select.POLLOUT)


class Record(Struct, omit_defaults=True):
    """One decision.  `verdict` is allowed, denied, failed: allowed, but it could not be done; or flood: `count` more
    were denied or failed, and were not written out.  `wanted` is what was asked for, as far as `namespaces`, those that
    were opened, do not tell.  Of an anonymous peer the uid proves nothing.
    """

    verb: str
    target: str
    verdict: str
    rule: str
    peer_uid: int
    peer_gid: int
    peer_pid: int
    peer_unit: str = ""
    wanted: str = ""
    namespaces: str = ""
    error: str = ""
    time: float = 0.0
    peer_anonymous: bool = False
    count: int = 0


class Audit:
    """Takes records, and the few words that the broker has to say of itself.

    What a user was refused is written out up to a limit, and then counted: nobody shall fill the journal by asking.
    """

    def __init__(self, write: Callable[[Record], None]) -> None:
        self._write = write
        self._flood = RateLimit()

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
        """Write one record.  Raises OSError when it is not taken: then what it would allow must not happen."""
        if verdict != "allowed" and not self._flood.admits(peer.user):
            return
        spaces = " ".join(map(str, namespaces))
        target, error = target[:_TEXT_MAX], error[:_TEXT_MAX].encode(errors="backslashreplace").decode()
        self._write(
            Record(
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
        )

    def configure(self, settings: AuditSettings) -> None:
        """Take other settings."""
        if isinstance(self._write, _ToJournal):
            self._write.settings = settings

    def write_floods(self, *, everyone: bool = False) -> None:
        """Write what was counted since, of each user whose time is over, or of everyone; for calling now and then."""
        for uid, count in self._flood.ended(everyone=everyone):
            with contextlib.suppress(OSError):
                self._write(Record("", "", "flood", "", uid, -1, 0, time=time.time(), count=count))

    @staticmethod
    def say(text: str) -> None:
        """One line about the broker itself on standard error; lost when nobody takes it."""
        line = f"nsbroker: {_printable(text)}\n".encode()
        with contextlib.suppress(OSError):
            if _can_write():
                os.write(_STDERR, line[:_LINE_MAX])


def open_audit(settings: AuditSettings) -> Audit:
    """The journal where it runs, standard error otherwise."""
    return Audit(_ToJournal(settings) if PLACE.exists() else _write_line)


class _ToJournal:
    """Writes records to the journal; what happens while it takes none is for the configuration to say."""

    def __init__(self, settings: AuditSettings) -> None:
        self._journal = Journal()
        self.settings = settings
        self._stuck = False

    def __call__(self, record: Record) -> None:
        try:
            self._journal.send(_journal_fields(record))
        except OSError as error:
            self._note(error)
            if self.settings.without_journal == "refuse":
                raise
            _write_line(record)
        else:
            self._note(None)

    def _note(self, error: OSError | None) -> None:
        if self._stuck is (error is not None):
            return
        self._stuck = error is not None
        if error is None:
            Audit.say("the journal takes records again")
        elif self.settings.without_journal == "refuse":
            Audit.say(f"the journal takes no records ({error.strerror}): nothing is opened until it does")
        else:
            Audit.say(f"the journal takes no records ({error.strerror}): they follow here")


def _journal_fields(record: Record) -> list[tuple[str, str]]:
    message_id, priority = _KINDS[record.verdict]
    if record.verdict == "flood":
        summary = f"{record.count} more refusals of uid {record.peer_uid} were not written out"
    else:
        summary = f"{record.verb} {record.target} by uid {record.peer_uid}: {record.verdict}"
    names = {name: getattr(record, name) for name in record.__struct_fields__ if name != "time"}
    return [
        ("MESSAGE", _printable(f"{summary} ({record.error})" if record.error else summary)),
        ("MESSAGE_ID", message_id),
        ("PRIORITY", str(priority)),
        ("SYSLOG_IDENTIFIER", IDENTIFIER),
        *(
            (f"NSBROKER_{name.upper()}", _printable(str(value)))
            for name, value in names.items()
            if value != "" and value is not False and (name, value) != ("count", 0)
        ),
    ]


_encoder = msgspec.json.Encoder()


def _write_line(record: Record) -> None:
    line = _encoder.encode(record) + b"\n"
    # Blocking here would stop every client at once; a record that finds no room counts as not taken.
    if len(line) > _LINE_MAX or not _can_write():
        raise BlockingIOError("standard error takes no audit record")
    if os.write(_STDERR, line) != len(line):
        raise BlockingIOError("standard error took half an audit record")


def _can_write() -> bool:
    ready = _stderr.poll(0)
    return bool(ready) and bool(ready[0][1] & select.POLLOUT)


def _printable(text: str) -> str:
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
