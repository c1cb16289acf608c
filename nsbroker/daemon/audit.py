"""The record of every decision: one journal entry, or where there is no journal one line of JSON on standard error.

Records come before what they record: an fd leaves only when its record was taken.  Fields hold what the broker knows,
names that others give come escaped: no record can be forged by naming a thing.
"""

import contextlib
import os
import select
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
from msgspec import Struct

from nsbroker.daemon.peer import Peer
from nsbroker.namespace import Namespace

JOURNAL_SOCKET = Path("/run/systemd/journal/socket")
IDENTIFIER = "nsbroker"

# Message ids are made once (`journalctl --new-id128`) and never change: they are how records are found.
ALLOWED = "5a3bf55dda5f4587aa13a5ef8904f2d0"
DENIED = "b3b4c803df4b4a33aea13a516e5bba75"
FAILED = "25e0fec9b5ca48679827133c5108ea84"
_WARNING = 4
_INFO = 6
_KINDS = {"allowed": (ALLOWED, _INFO), "denied": (DENIED, _WARNING), "failed": (FAILED, _WARNING)}

# A pipe takes a write of this size whole or not at all (PIPE_BUF).
_LINE_MAX = 4096
# What clients write is cut, so that every record fits, even if each character is written as six.
_TEXT_MAX = 250
_STDERR = 2
_stderr = select.poll()
_stderr.register(_STDERR, select.POLLOUT)


class Record(Struct, omit_defaults=True):
    """One decision.  `verdict` is allowed, denied, or failed: allowed, but it could not be done.  Of an anonymous peer the
    uid proves nothing.
    """

    verb: str
    target: str
    verdict: str
    rule: str
    peer_uid: int
    peer_gid: int
    peer_pid: int
    peer_unit: str = ""
    namespaces: str = ""
    error: str = ""
    time: float = 0.0
    peer_anonymous: bool = False


class Audit:
    """Takes records, and the few words that the broker has to say of itself."""

    def __init__(self, write: Callable[[Record], None]) -> None:
        self._write = write

    def record(
        self,
        peer: Peer,
        verb: str,
        target: str,
        verdict: str,
        *,
        rule: str = "",
        unit: str | None = None,
        namespaces: Iterable[Namespace] = (),
        error: str = "",
    ) -> None:
        """Write one record.  Raises OSError when it is not taken: then what it would allow must not happen."""
        spaces = " ".join(map(str, namespaces))
        target, error = target[:_TEXT_MAX], error[:_TEXT_MAX]
        self._write(
            Record(
                verb, target, verdict, rule, peer.uid, peer.gid, peer.pid, unit or "", spaces, error, time.time(), peer.anonymous
            )
        )

    @staticmethod
    def say(text: str) -> None:
        """One line about the broker itself on standard error; lost when nobody takes it."""
        line = f"nsbroker: {_printable(text)}\n".encode()
        with contextlib.suppress(OSError):
            if _can_write():
                os.write(_STDERR, line[:_LINE_MAX])


def open_audit() -> Audit:
    """The journal where it runs and systemd-python is there, standard error otherwise."""
    if JOURNAL_SOCKET.exists():
        try:
            from systemd.journal import sendv
        except ImportError:
            Audit.say("there is a journal, but systemd-python is not installed: records go to standard error")
        else:
            return Audit(lambda record: sendv(*_journal_fields(record)))
    return Audit(_write_line)


def _journal_fields(record: Record) -> list[str]:
    message_id, priority = _KINDS[record.verdict]
    summary = f"{record.verb} {record.target} by uid {record.peer_uid}: {record.verdict}"
    names = {name: getattr(record, name) for name in record.__struct_fields__ if name != "time"}
    return [
        f"MESSAGE={_printable(f'{summary} ({record.error})' if record.error else summary)}",
        f"MESSAGE_ID={message_id}",
        f"PRIORITY={priority}",
        f"SYSLOG_IDENTIFIER={IDENTIFIER}",
        *(
            f"NSBROKER_{name.upper()}={_printable(str(value))}"
            for name, value in names.items()
            if value != "" and value is not False
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
