"""Configuration files: found and merged as systemd does, trusted only when root alone can write them, read strictly."""

import os
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
from msgspec import Struct

from nsbroker.errors import ConfigurationError
from nsbroker.model.target import ENGINES

NAME = "nsbroker.toml"
_DROP_INS = "nsbroker.d"
_SHIPPED = Path(__file__).parent
DIRECTORIES = (_SHIPPED, Path("/usr/lib/nsbroker"), Path("/run/nsbroker"), Path("/etc/nsbroker"))
"""Where configuration is looked for; a file in a later folder replaces one of the same name in an earlier one."""
_FILE_MAX = 1024 * 1024


class RuleText(Struct, forbid_unknown_fields=True):
    """One `[[allow]]` as written."""

    name: str
    who: list[str] | str
    targets: list[str]
    namespaces: list[str] = []
    sockets: list[str] = []
    devices: list[str] = []
    create: list[str] = []
    hold: list[str] = []


class SourcedRule(NamedTuple):
    """A rule and the file that it stands in."""

    text: RuleText
    origin: Path


class Limits(Struct, forbid_unknown_fields=True, rename="kebab", frozen=True):
    """`[limits]`.  Descriptors are counted from the sending of a reply until the peer has read it; deadlines are in seconds."""

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
    """Namespaces that one user had made and that still exist, as far as the kernel tells (Linux 6.18), else in an hour."""
    threads_per_user: int = 8
    """Looks at what can keep a thread waiting (files, processes, engines, devices) that one user has under way at once."""
    records_per_user: int = 10_000
    """Calls of one user that are recorded as allowed within 30 seconds; a user with more is slowed down to that."""
    record_deadline: float = 2.0


class AuditSettings(Struct, forbid_unknown_fields=True, rename="kebab", frozen=True):
    """`[audit]`.  `without-journal`: what happens while the journal takes no records, `refuse` or `stderr`."""

    without_journal: Literal["refuse", "stderr"] = "refuse"


class _File(Struct, forbid_unknown_fields=True):
    allow: list[RuleText] = []
    limits: dict[str, int | float] = {}
    engines: dict[str, list[str]] = {}
    audit: AuditSettings | None = None


class Configuration(Struct, frozen=True):
    """All files merged: rules in the order of the files, the last word on each limit and on where each engine is, and
    which files were read.
    """

    rules: tuple[SourcedRule, ...]
    limits: Limits
    engines: dict[str, list[str]]
    audit: AuditSettings
    files: tuple[Path, ...]


def load(place: Path | None = None) -> Configuration:
    """Read the configuration: of the system, or `place` alone, which is a file or a folder with `nsbroker.toml` and
    `nsbroker.d` in it.  Raises ConfigurationError.
    """
    files = tuple(_files(place))
    rules: list[SourcedRule] = []
    limits: dict[str, int | float] = {}
    engines: dict[str, list[str]] = {}
    audit = AuditSettings()
    for path in files:
        content = _read(path)
        rules += [SourcedRule(text, path) for text in content.allow]
        _check_limits(content.limits, path)
        limits |= content.limits
        _check_engines(content.engines, path)
        engines |= content.engines
        audit = content.audit or audit
    origins: dict[str, Path] = {}
    for text, origin in rules:
        if text.name in origins:
            raise ConfigurationError(
                f"{origins[text.name]} and {origin}: two rules have the name {text.name!r}: no record could tell them apart"
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
        # Without O_NONBLOCK a FIFO would hold up the daemon until somebody writes to it.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            # Who can write the file beside our code can write the code.
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
        raise ConfigurationError(f"{path}: nested too deep") from error
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{path}: {_plain(str(error))}") from error
    except ValueError as error:
        # Also a number with more digits than Python reads, which tomllib leaves as it is.
        raise ConfigurationError(f"{path}: not TOML: {error}") from error


def _check_trust(path: Path, facts: os.stat_result) -> None:
    # Checked on the opened file, so that what was checked is what is read.
    if not stat.S_ISREG(facts.st_mode):
        raise ConfigurationError(f"{path}: not a plain file")
    if facts.st_uid not in (0, os.geteuid()):
        raise ConfigurationError(f"{path}: owned by uid {facts.st_uid}, who could so allow themselves anything: chown root {path}")
    if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigurationError(f"{path}: others than its owner may write it (mode {facts.st_mode & 0o7777:o}): chmod go-w {path}")


def _check_limits(values: dict[str, int | float], path: Path) -> None:
    try:
        limits = msgspec.convert(values, Limits)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{path}: limits: {_plain(str(error))}") from error
    for field in limits.__struct_fields__:
        if not 0 < getattr(limits, field) <= 10**6:
            raise ConfigurationError(f"{path}: limits: {field.replace('_', '-')} must be above 0 and at most a million")


def _check_engines(engines: dict[str, list[str]], path: Path) -> None:
    for name, places in engines.items():
        if name not in ENGINES:
            raise ConfigurationError(f"{path}: engines: {name!r} is no engine: use one of {', '.join(ENGINES)}")
        for place in places:
            if not Path(place).is_absolute():
                raise ConfigurationError(f"{path}: engines: {name}: {place!r} is no absolute path (an empty list turns it off)")


def _plain(message: str) -> str:
    """Msgspec's message with the place first, as people read TOML, and the key that was perhaps meant."""
    text, _, place = message.partition(" - at `$")
    where = place.rstrip("`").lstrip(".")
    if text.startswith("Object contains unknown field"):
        import difflib  # only on this path: the daemon's memory counts

        key = text.split("`")[1]
        known = (
            *_File.__struct_fields__,
            *RuleText.__struct_fields__,
            *Limits.__struct_encode_fields__,
            *AuditSettings.__struct_encode_fields__,
        )
        near = difflib.get_close_matches(key, known, 1)
        text = f"unknown key {key!r}" + (f", did you mean {near[0]!r}?" if near else "")
    return f"{where}: {text}" if where else text
