"""What the configuration files can say, as data."""

import datetime
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from msgspec import Struct

Keys = tuple[str | int, ...]
"""The place of a value in a file: keys of tables, and numbers of entries from 0, such as ("allow", 0, "targets", 2)."""


class RuleText(Struct):
    """One `[[allow]]`, as it is written.  A text alone stands for a list with this one entry."""

    name: str
    who: tuple[str, ...]
    targets: tuple[str, ...]
    namespaces: tuple[str, ...] = ()
    sockets: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    interfaces: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    create: tuple[str, ...] = ()
    hold: tuple[str, ...] = ()
    until: datetime.datetime | None = None
    """When the rule ends; without it, never."""


class SourceFile(NamedTuple):
    """A file that was read, and its text."""

    path: Path
    text: str


class SourcedRule(NamedTuple):
    """A rule, the file that it is from, and its number among the rules of that file, from 0."""

    text: RuleText
    file: SourceFile
    number: int

    @property
    def origin(self) -> Path:
        """The path of the file."""
        return self.file.path


class UnreadFile(NamedTuple):
    """A file in a configuration directory that is not read, and why."""

    path: Path
    reason: str


class Limits(Struct, rename="kebab", frozen=True):
    """`[limits]`.  Deadlines are in seconds.  Descriptors count from the sending of a reply until the peer has read it."""

    connections: int = 1024
    connections_per_user: int = 256
    connections_reserved_for_root: int = 16
    unread_descriptors_per_user: int = 1024
    message_deadline: float = 5.0
    reply_deadline: float = 5.0
    engine_deadline: float = 2.0
    device_deadline: float = 2.0
    held_per_user: int = 16
    created_per_user: int = 64
    """Namespaces created for one user that still exist; before Linux 6.18, all that were created in the last hour."""
    interfaces_per_user: int = 64
    """Network interfaces added for one user within an hour."""
    threads_per_user: int = 8
    """Threads that one user may keep busy at once with what can block: files, processes, engines, devices."""
    records_per_user: int = 10_000
    """Calls of one user that are recorded as allowed within 30 seconds; a user who makes more is slowed down to that."""
    sockets_per_user: int = 5_000
    """Sockets that one user may have made within 30 seconds; more are delayed."""
    record_deadline: float = 2.0
    longest_grant: float = 604_800.0
    """The longest time, in seconds, for which `nsbroker grant` gives rights.  The default is a week."""


WithoutJournal: TypeAlias = Literal["refuse", "stderr"]


class AuditSettings(Struct, rename="kebab", frozen=True):
    """`[audit]`.  `without-journal` says what happens while the journal takes no records.

    `refuse`: the calls fail.  `stderr`: the records are written to standard error.
    """

    without_journal: WithoutJournal = "refuse"


class Configuration(Struct, frozen=True):
    """All files merged.

    The rules are in the order of the files.  For each limit, each engine's paths and the audit settings, the last file that has
    them counts.  `files` are those that were read, and `unread` those in the same directories that were not.
    """

    rules: tuple[SourcedRule, ...] = ()
    limits: Limits = Limits()
    engines: dict[str, list[str]] = {}
    audit: AuditSettings = AuditSettings()
    files: tuple[Path, ...] = ()
    unread: tuple[UnreadFile, ...] = ()

    def warnings(self) -> list[str]:
        """Return a warning for each file that is not read."""
        return [f"{path}: not read: {reason}" for path, reason in self.unread]
