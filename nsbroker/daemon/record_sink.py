"""Where audit records are written: the journal, or standard error where no journal runs.

A sink writes a record at once or raises BlockingIOError: whoever writes is the event loop of all clients.
"""

import os
import select
from typing import Protocol

import msgspec
import trio
from msgspec import Struct

from nsbroker.daemon.systemd.journal import Journal

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
LINE_MAX = 4096
_STDERR = 2
_PAUSE = 0.005
_stderr = select.poll()
_stderr.register(_STDERR, select.POLLOUT)
_encoder = msgspec.json.Encoder()


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


class RecordSink(Protocol):
    """Takes records.  `name` is what it is, for people."""

    name: str

    def write(self, record: Record) -> None:
        """Write one record.  Raises BlockingIOError when it is not taken now, OSError when it cannot be taken at all."""

    async def wait_writable(self) -> None:
        """Wait until another try is worth it."""


class JournalSink:
    """Writes records to systemd-journald."""

    name = "the journal"

    def __init__(self) -> None:
        self._journal = Journal()

    def write(self, record: Record) -> None:
        """Send it as one entry of the journal."""
        self._journal.send(_journal_fields(record))

    async def wait_writable(self) -> None:
        """Wait until journald has read something.

        The socket is connected, so the kernel wakes us among those who wait for room in journald's queue.  Trying again
        now and then would lose each race against programs that send without a pause.
        """
        with trio.move_on_after(_PAUSE):
            await trio.lowlevel.wait_writable(self._journal.fileno())


class StderrSink:
    """Writes records to standard error, a line of JSON each."""

    name = "standard error"

    def write(self, record: Record) -> None:
        """Write it as one line."""
        line = _encoder.encode(record) + b"\n"
        # Blocking here would stop every client at once; a record that finds no room counts as not taken.
        if len(line) > LINE_MAX:
            raise OSError("an audit record is too long for standard error")
        if not can_write_stderr():
            raise BlockingIOError("standard error takes no audit record")
        if os.write(_STDERR, line) != len(line):
            raise OSError("standard error took half an audit record")

    async def wait_writable(self) -> None:
        """Wait a moment: what standard error is may be nothing that can be waited for."""
        await trio.sleep(_PAUSE)


def can_write_stderr() -> bool:
    """Whether a write to standard error would not block."""
    ready = _stderr.poll(0)
    return bool(ready) and bool(ready[0][1] & select.POLLOUT)


def printable(text: str) -> str:
    """`text` with everything escaped that is not a printable character."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def _journal_fields(record: Record) -> list[tuple[str, str]]:
    message_id, priority = _KINDS[record.verdict]
    if record.verdict == "flood":
        summary = f"{record.count} more refusals of uid {record.peer_uid} were not written out"
    else:
        summary = f"{record.verb} {record.target} by uid {record.peer_uid}: {record.verdict}"
    names = {name: getattr(record, name) for name in record.__struct_fields__ if name != "time"}
    return [
        ("MESSAGE", printable(f"{summary} ({record.error})" if record.error else summary)),
        ("MESSAGE_ID", message_id),
        ("PRIORITY", str(priority)),
        ("SYSLOG_IDENTIFIER", IDENTIFIER),
        *(
            (f"NSBROKER_{name.upper()}", printable(str(value)))
            for name, value in names.items()
            if value != "" and value is not False and (name, value) != ("count", 0)
        ),
    ]
