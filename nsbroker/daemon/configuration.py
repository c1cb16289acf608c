"""The configuration files: finding, checking, reading and merging them.

They are found and merged as systemd does it.  A file is trusted only when root, or the user who runs the broker, owns it and
nobody else can write it.  An unknown key is an error.
"""

import datetime
import os
import re
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import msgspec
from msgspec import Struct

from nsbroker.errors import ConfigurationError
from nsbroker.model.target import ENGINES

NAME = "nsbroker.toml"
_DROP_INS = "nsbroker.d"
_SHIPPED = Path(__file__).parent
DIRECTORIES = (_SHIPPED, Path("/usr/lib/nsbroker"), Path("/run/nsbroker"), Path("/etc/nsbroker"))
"""The directories with configuration; a file in a later one replaces a file of the same name in an earlier one."""
_FILE_MAX = 1024 * 1024


class RuleText(Struct, forbid_unknown_fields=True):
    """One `[[allow]]`, as it is written."""

    name: str
    who: list[str] | str
    targets: list[str]
    namespaces: list[str] = []
    sockets: list[str] = []
    marks: list[str] = []
    devices: list[str] = []
    interfaces: list[str] = []
    files: list[str] = []
    create: list[str] = []
    hold: list[str] = []
    until: datetime.datetime | None = None
    """When the rule ends; without it, never."""


class SourcedRule(NamedTuple):
    """A rule, and the file that it is from."""

    text: RuleText
    origin: Path


class Limits(Struct, forbid_unknown_fields=True, rename="kebab", frozen=True):
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
    """Sockets that one user may have made within 30 seconds.  Each takes a thread that enters a namespace; more are delayed."""
    record_deadline: float = 2.0
    longest_grant: float = 604_800.0
    """The longest time, in seconds, for which `nsbroker grant` gives rights.  The default is a week."""


WithoutJournal: TypeAlias = Literal["refuse", "stderr"]


class AuditSettings(Struct, forbid_unknown_fields=True, rename="kebab", frozen=True):
    """`[audit]`.  `without-journal` says what happens while the journal takes no records.

    `refuse`: the calls fail.  `stderr`: the records are written to standard error.
    """

    without_journal: WithoutJournal = "refuse"


class _File(Struct, forbid_unknown_fields=True):
    allow: list[RuleText] = []
    # The values of these two are checked separately, because msgspec does not say for which key of a dict a value is wrong.
    limits: dict[str, Any] = {}
    engines: dict[str, Any] = {}
    audit: AuditSettings | None = None


class Configuration(Struct, frozen=True):
    """All files merged.

    The rules are in the order of the files.  For each limit, each engine's paths and the audit settings, the last file that has
    them counts.  `files` are those that were read.
    """

    rules: tuple[SourcedRule, ...]
    limits: Limits
    engines: dict[str, list[str]]
    audit: AuditSettings
    files: tuple[Path, ...]


NOTHING = Configuration((), Limits(), {}, AuditSettings(), ())
"""A configuration that allows nothing."""


def load(place: Path | None = None) -> Configuration:
    """Read the configuration of the system, or only `place`.  Raises ConfigurationError.

    `place` is a file, or a directory with `nsbroker.toml` and `nsbroker.d` in it.
    """
    files = tuple(_files(place))
    rules: list[SourcedRule] = []
    limits: dict[str, Any] = {}
    engines: dict[str, list[str]] = {}
    audit = AuditSettings()
    for path in files:
        content = _read(path)
        rules += [SourcedRule(text, path) for text in content.allow]
        _check_limits(content.limits, path)
        limits |= content.limits
        engines |= _check_engines(content.engines, path)
        audit = content.audit or audit
    origins: dict[str, Path] = {}
    for text, origin in rules:
        if text.name in origins:
            raise ConfigurationError(
                f"{origins[text.name]} and {origin}: two rules have the name {text.name!r}: rename one, because audit "
                "records identify a rule by its name"
            )
        origins[text.name] = origin
    return Configuration(tuple(rules), msgspec.convert(limits, Limits), engines, audit, files)


def _files(place: Path | None) -> Iterator[Path]:
    if place is not None and not place.is_dir():
        yield place
        return
    directories = DIRECTORIES if place is None else (place,)
    mains = [path for path in (directory / NAME for directory in directories) if _exists(path)]
    if place is not None and not mains:
        raise ConfigurationError(f"{place / NAME}: there is no such file")
    drop_ins = {path.name: path for directory in directories for path in (directory / _DROP_INS).glob("*.toml")}
    yield from (path for path in (*mains[-1:], *(drop_ins[name] for name in sorted(drop_ins))) if not _is_masked(path))


def _exists(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _is_masked(path: Path) -> bool:
    return path.is_symlink() and path.resolve() == Path(os.devnull)


def _read(path: Path) -> _File:
    try:
        # Without O_NONBLOCK, opening a FIFO would block the daemon until somebody writes to it.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            # A user who can write the file beside our code can write the code, too, so a check of it would be useless.
            if path.parent != _SHIPPED:
                _check_trust(path, os.fstat(fd))
            with open(fd, "rb", closefd=False) as file:
                text = file.read(_FILE_MAX + 1)
        finally:
            os.close(fd)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    if len(text) > _FILE_MAX:
        raise ConfigurationError(f"{path}: larger than {_FILE_MAX} bytes")
    try:
        return msgspec.convert(tomllib.loads(text.decode()), _File)
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: not UTF-8 text") from error
    except RecursionError as error:
        raise ConfigurationError(f"{path}: nested too deeply") from error
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{path}: {_rewrite(str(error))}") from error
    except ValueError as error:
        # This is also the error for a number with more digits than Python reads, which tomllib passes on.
        raise ConfigurationError(f"{path}: not TOML: {error}") from error


def _check_trust(path: Path, facts: os.stat_result) -> None:
    # The open file is checked, so that the file that was checked is the one that is read.
    if not stat.S_ISREG(facts.st_mode):
        raise ConfigurationError(f"{path}: not a regular file")
    if facts.st_uid not in (0, os.geteuid()):
        raise ConfigurationError(f"{path}: owned by uid {facts.st_uid}: that user could change the policy: run `chown root {path}`")
    if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigurationError(
            f"{path}: users other than its owner can write to it (mode {facts.st_mode & 0o7777:o}): run `chmod go-w {path}`"
        )


def _check_limits(values: dict[str, Any], path: Path) -> None:
    try:
        limits = msgspec.convert(values, Limits)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{path}: {_rewrite(str(error), 'limits')}") from error
    for field in limits.__struct_fields__:
        if not 0 < getattr(limits, field) <= 10**6:
            raise ConfigurationError(f"{path}: limits.{field.replace('_', '-')} must be above 0 and at most a million")


def _check_engines(engines: dict[str, Any], path: Path) -> dict[str, list[str]]:
    checked: dict[str, list[str]] = {}
    for name, value in engines.items():
        if name not in ENGINES:
            raise ConfigurationError(f"{path}: engines: {name!r} is no engine: use one of {', '.join(ENGINES)}")
        try:
            checked[name] = msgspec.convert(value, list[str])
        except msgspec.ValidationError as error:
            raise ConfigurationError(f"{path}: {_rewrite(str(error), f'engines.{name}')}") from error
        for place in checked[name]:
            if not Path(place).is_absolute():
                raise ConfigurationError(
                    f"{path}: engines.{name}: {place!r} is not an absolute path (to turn the engine off, write an empty list)"
                )
    return checked


# What msgspec calls the types of values, and the words for them in our messages.
_EXPECTED = {
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "array": "a list",
    "object": "a table",
    "str | array": "a string or a list",
    "object | null": "a table",
}
_GOT = {
    **_EXPECTED,
    "float": "a floating-point number",
    "bool": "a boolean",
    "date": "a date",
    "time": "a time",
    "datetime": "a date with a time",
}


def _rewrite(message: str, table: str = "") -> str:
    """Rewrite a message of msgspec in plain words.  `table` is the key whose value was converted (default: the whole file).

    The place comes first.  Rules and the entries of lists are counted from 1.
    """
    text, _, inner = message.partition(" - at `$")
    place = f"{table}{inner.removesuffix('`')}".removeprefix(".")
    place = re.sub(r"^allow\[([0-9]+)\]\.?", lambda number: f"rule {int(number[1]) + 1}: ", place)
    place = re.sub(r"\[([0-9]+)\]$", lambda number: f": entry {int(number[1]) + 1}", place)
    return ": ".join(filter(None, (place.removesuffix(": "), _rewrite_reason(text))))


def _rewrite_reason(text: str) -> str:
    if types := re.fullmatch("Expected `(.*)`, got `(.*)`", text):
        return f"expected {_EXPECTED.get(types[1], types[1])}, got {_GOT.get(types[2], types[2])}"
    if text.startswith("Invalid enum value "):
        return f"expected {' or '.join(map(repr, get_args(WithoutJournal)))}, got {text.removeprefix('Invalid enum value ')}"
    if text.startswith("Object missing required field "):
        return f"the key {_key(text)!r} is missing"
    if text.startswith("Object contains unknown field "):
        import difflib  # only on this path: the daemon's memory counts

        key = _key(text)
        known = (
            *_File.__struct_fields__,
            *RuleText.__struct_fields__,
            *Limits.__struct_encode_fields__,
            *AuditSettings.__struct_encode_fields__,
        )
        near = difflib.get_close_matches(key, known, 1)
        return f"unknown key {key!r}" + (f", did you mean {near[0]!r}?" if near else "")
    return f"wrong value: {text}"


def _key(text: str) -> str:
    return text.partition("`")[2].removesuffix("`")
