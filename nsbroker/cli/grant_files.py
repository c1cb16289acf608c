"""Grants: rules with an end, each in a file of its own, which `nsbroker grant` writes and `nsbroker revoke` removes."""

import datetime
import os
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from nsbroker.cli import rule_text
from nsbroker.daemon import configuration
from nsbroker.daemon.configuration import SourcedRule
from nsbroker.daemon.policy import rules
from nsbroker.errors import CommandFailed, ConfigurationError

DIRECTORY = Path("/run/nsbroker/nsbroker.d")
"""Where grants are kept.  /run is empty after a boot, so no grant survives one."""
PREFIX = "grant-"


class Grant(NamedTuple):
    """What `nsbroker grant` was told: for whom, which targets, and the permissions by their keys in a rule."""

    who: str
    targets: Sequence[str]
    permissions: Mapping[str, Sequence[str]]
    seconds: float


def list_grants() -> list[SourcedRule]:
    """Return the grants that have not ended, the one that ends first first.  Raises ConfigurationError."""
    now = time.time()
    found = [rule for rule in configuration.load().rules if _is_grant(rule) and _end(rule) > now]
    return sorted(found, key=_end)


def write_grant(grant: Grant) -> str:
    """Write the file of a grant and return the name of its rule.  Raises CommandFailed, ConfigurationError, OSError.

    The file is checked as the daemon would check it before it gets its name.
    """
    settings = configuration.load()
    longest = settings.limits.longest_grant
    if grant.seconds > longest:
        raise CommandFailed(f"{grant.seconds:g} seconds is longer than the limit longest-grant of the configuration ({longest:g})")
    taken = {rule.text.name for rule in settings.rules}
    _make_directory()
    name, fd = _reserve_name(grant.who, taken)
    new = DIRECTORY / f"{name}.new"
    try:
        with open(fd, "w", encoding="utf-8") as file:
            os.fchmod(fd, 0o644)
            file.write(_format(name, grant))
        _, policy = rules.load(new)
        for warning in policy.warnings:
            raise CommandFailed(f"this grants nothing: {warning}")
        new.rename(file_of(name))
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    return name


def _reserve_name(who: str, taken: Collection[str]) -> tuple[str, int]:
    """Create the file NAME.new for a name that no other grant has.  Return the name and the fd, which is the caller's to close.

    Whoever created NAME.new alone may rename it to NAME.toml.
    """
    user = "".join(c if c.isalnum() and c.isascii() else "-" for c in who.partition(":")[2] or who)
    number = 0
    while True:
        number += 1
        name = f"{PREFIX}{user}-{number}"
        new = DIRECTORY / f"{name}.new"
        if name in taken:
            continue
        try:
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except FileExistsError:
            continue
        if not file_of(name).exists():
            return name, fd
        # It was written since the names were read.
        os.close(fd)
        new.unlink()


def file_of(name: str) -> Path:
    """Return the file of the grant `name`."""
    return DIRECTORY / f"{name}.toml"


def remove_grant(name: str) -> bool:
    """Remove the file of a grant, and return whether there was one.  Raises CommandFailed when no grant can have this name."""
    if not name.startswith(PREFIX) or "/" in name:
        raise CommandFailed(f"{name!r} is not the name of a grant (`nsbroker grants` lists them)")
    try:
        file_of(name).unlink()
    except FileNotFoundError:
        return False
    return True


def remove_ended() -> None:
    """Remove the files of grants that have ended."""
    now = time.time()
    for path in DIRECTORY.glob(f"{PREFIX}*.toml"):
        try:
            written = configuration.load(path).rules
        except ConfigurationError:
            continue
        # A file without rules, such as a link to /dev/null, is no grant that has ended.
        if written and all(_end(rule) <= now for rule in written):
            path.unlink(missing_ok=True)


def _make_directory() -> None:
    for directory in (DIRECTORY.parent, DIRECTORY):
        if not directory.exists():
            directory.mkdir()
            # Whatever the umask is: everyone may see which rules there are, as in /etc, and only root may write.
            directory.chmod(0o755)


def _is_grant(rule: SourcedRule) -> bool:
    return rule.origin.parent == DIRECTORY and rule.text.name.startswith(PREFIX) and rule.text.until is not None


def _end(rule: SourcedRule) -> float:
    return rule.text.until.timestamp() if rule.text.until is not None else float("inf")


def _format(name: str, grant: Grant) -> str:
    until = datetime.datetime.fromtimestamp(time.time() + grant.seconds, datetime.UTC).isoformat(timespec="milliseconds")
    rule = rule_text.format_rule(name, [grant.who], grant.targets, grant.permissions)
    return f"# Written by `nsbroker grant`; `nsbroker revoke` removes it.\n{rule}until = {until}\n"
