"""Where audit records are written: the journal, or standard error where no journal runs.

A sink never blocks, because it is called on the event loop that serves all clients: it writes a record at once or raises
BlockingIOError.
"""

import functools
from typing import Protocol

import msgspec
import trio
from msgspec import Struct

from nsbroker.daemon.limits.users import ANONYMOUS
from nsbroker.daemon.systemd.journal import Journal
from nsbroker.linux.nowait_writer import NowaitWriter
from nsbroker.model.text import escaped

IDENTIFIER = "nsbroker"

# Message ids were made once (with `journalctl --new-id128`) and never change: administrators find records by them.
ALLOWED = "5a3bf55dda5f4587aa13a5ef8904f2d0"
ALLOWED_WITHOUT_RULE = "4c8fa1c79eab4121bc499f9064a2019a"
DENIED = "b3b4c803df4b4a33aea13a516e5bba75"
FAILED = "25e0fec9b5ca48679827133c5108ea84"
SUPPRESSED = "4a1a4dc3c5c34a70b7a1d0d7f0d6e4a6"
EXPIRED = "8c8f1f235d8e423abab894f6ded018df"
MALFORMED = "a5945abe13606dc7192f375b43002b64"
_WARNING = 4
_NOTICE = 5
_INFO = 6
_BY_VERDICT = {
    "allowed": (ALLOWED, _INFO),
    "denied": (DENIED, _WARNING),
    "failed": (FAILED, _WARNING),
    "suppressed": (SUPPRESSED, _WARNING),
    "expired": (EXPIRED, _NOTICE),
    "malformed": (MALFORMED, _WARNING),
}

# The kernel writes up to this many bytes to a pipe whole or not at all (PIPE_BUF in pipe(7)).
LINE_MAX = 4096
_STDERR = 2
# Seconds until the next try when a sink is busy.
_PAUSE = 0.005
_encoder = msgspec.json.Encoder()


class Record(Struct, omit_defaults=True):
    """The audit record of one decision.

    `verdict` is "allowed", "denied", "failed" (it was allowed, but could not be done), "suppressed" (`count` more calls were
    denied, failed or malformed, and have no record of their own), "expired" (`rule` has ended, and there is no peer) or
    "malformed" (the peer sent something that is no call, as `error` says, and its connection was closed).  `namespaces` are the
    ids of the namespaces that were opened.  `wanted` describes what the call asked for where `namespaces` does not.  `time` is in
    seconds since the epoch.  The uid of a peer with `peer_anonymous` proves nothing.  In a suppressed record, `peer_uid` is the
    user to whom the calls are counted: ANONYMOUS for all anonymous peers together.
    """

    method: str
    target: str
    verdict: str
    rule: str
    peer_uid: int | None
    peer_gid: int | None
    peer_pid: int | None
    peer_unit: str = ""
    wanted: str = ""
    namespaces: str = ""
    error: str = ""
    time: float = 0.0
    peer_anonymous: bool = False
    peer_container: str = ""
    count: int = 0


_FIELDS = tuple((name, f"NSBROKER_{name.upper()}") for name in Record.__struct_fields__ if name != "time")
_MAY_BE_0 = ("peer_uid", "peer_gid", "peer_pid")


class RecordSink(Protocol):
    """A place to write audit records to.  `name` is its name in log lines and error messages."""

    name: str

    def write(self, record: Record) -> None:
        """Write one record.  Raises BlockingIOError when the sink is busy, and OSError when the record cannot be written."""

    async def wait_writable(self) -> None:
        """Wait until it makes sense to try again."""


class JournalSink:
    """Writes records to systemd-journald."""

    name = "the journal"

    def __init__(self) -> None:
        self._journal = Journal()

    def write(self, record: Record) -> None:
        """Send the record as one journal entry."""
        self._journal.send(_journal_fields(record))

    async def wait_writable(self) -> None:
        """Wait until journald has read something.

        The socket is connected, so the kernel wakes us together with the other senders that wait for room in journald's queue.
        Merely trying again at intervals would lose the race against programs that send without a pause.
        """
        with trio.move_on_after(_PAUSE):
            await trio.lowlevel.wait_writable(self._journal.fileno())


class StderrSink:
    """Writes records to standard error, each as one line of JSON."""

    name = "standard error"

    def write(self, record: Record) -> None:
        """Write the record as one line."""
        line = _encoder.encode(record) + b"\n"
        # Blocking here would stop all clients.  A record for which there is no room counts as not written.
        if len(line) > LINE_MAX:
            raise OSError("an audit record is too long for standard error")
        if stderr().write(line) != len(line):
            raise OSError("standard error took only a part of an audit record")

    async def wait_writable(self) -> None:
        """Wait a moment: standard error may be a file for which the kernel offers no events."""
        await trio.sleep(_PAUSE)


@functools.cache
def stderr() -> NowaitWriter:
    """Return what writes to standard error.  Raises OSError if that is closed."""
    return NowaitWriter(_STDERR)


def _journal_fields(record: Record) -> list[tuple[str, str]]:
    message_id, priority = _BY_VERDICT[record.verdict]
    if message_id == ALLOWED and not record.rule:
        # The catalog explains ALLOWED with the names of the rules.
        message_id = ALLOWED_WITHOUT_RULE
    fields = [
        ("MESSAGE", escaped(_summarize(record))),
        ("MESSAGE_ID", message_id),
        ("PRIORITY", str(priority)),
        ("SYSLOG_IDENTIFIER", IDENTIFIER),
    ]
    for name, journal_name in _FIELDS:
        value = getattr(record, name)
        # Root is uid 0, but no other field that is 0, "", False or None says anything.
        if value or (value == 0 and name in _MAY_BE_0):
            fields.append((journal_name, escaped(value) if isinstance(value, str) else str(value)))
    return fields


def _summarize(record: Record) -> str:
    """Return the record as one sentence."""
    if record.verdict == "suppressed":
        whose = "anonymous peers" if record.peer_uid == ANONYMOUS else f"uid {record.peer_uid}"
        return f"{record.count} more refused or failed calls of {whose} were not written to the journal"
    if record.verdict == "expired":
        return f"the rule {record.rule} has ended"
    if record.verdict == "malformed":
        return f"a malformed message of uid {record.peer_uid}, process {record.peer_pid} ended its connection: {record.error}"
    user = f"uid {record.peer_uid}{' (anonymous)' if record.peer_anonymous else ''}"
    call = " of ".join(filter(None, (f"{record.method} {record.wanted}".rstrip(), record.target)))
    if record.verdict == "denied":
        return f"{call} was denied to {user}" + (f" ({record.error})" if record.error else "")
    rules = record.rule.split()
    by = f" by the rule{'s' if len(rules) > 1 else ''} {', '.join(rules)}" if rules else ""
    failed = f", but failed: {record.error}" if record.verdict == "failed" else ""
    return f"{call} was allowed to {user}{by}{failed}"
