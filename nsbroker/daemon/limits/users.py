"""Find the user to whom a uid's use of the broker is counted.

A user is a uid together with the subordinate uids that /etc/subuid gives it (subuid(5), newuidmap(1)): with these, one person can
connect with 65 536 different uids.
"""

import bisect
import pwd
from pathlib import Path
from typing import NamedTuple

ANONYMOUS = -1
"""The user to whom all peers are counted whose uid proves nothing."""

ROOT = 0
"""The host's root.  A peer with uid 0 counts as root only with proof: see `Peer`."""


class _Range(NamedTuple):
    start: int
    end: int
    user: int
    latest: int = 0
    """The highest end of this range and of all ranges that start before it."""


class SubordinateUids:
    """The ranges in a file such as /etc/subuid.  The file is read again when it has changed; without it there are no ranges."""

    def __init__(self, path: Path = Path("/etc/subuid")) -> None:
        self._path = path
        self._version: tuple[int, int, int] | None = None
        self._ranges: list[_Range] = []

    def user_of(self, uid: int) -> int:
        """Return the user to whom `uid` is subordinate, or `uid` itself when it is in no range.

        A range of uids that is subordinate to root is a user of its own, with the first uid of the range as its number: they do
        not get root's privileges in limits.
        """
        self._refresh()
        place = bisect.bisect_right(self._ranges, uid, key=lambda known: known.start)
        # Ranges may lie within other ranges: the innermost one counts.
        for found in reversed(self._ranges[:place]):
            if uid < found.end:
                return found.user if found.user != ROOT else found.start
            if uid >= found.latest:
                break
        return uid

    def _refresh(self) -> None:
        try:
            facts = self._path.stat()
            version = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
            if version != self._version:
                self._ranges = _parse(self._path.read_text(encoding="utf-8", errors="replace"))
                self._version = version
        except OSError:
            self._version, self._ranges = None, []


def _parse(text: str) -> list[_Range]:
    """Return the ranges, sorted by their start.  Lines that are not understood are ignored, as newuidmap(1) does."""
    ranges = []
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        start, _, count = rest.partition(":")
        user = _uid(name)
        if user is not None and _is_number(start) and _is_number(count):
            ranges.append(_Range(int(start), int(start) + int(count), user))
    latest = 0
    found = []
    for one in sorted(ranges):
        latest = max(latest, one.end)
        found.append(one._replace(latest=latest))
    return found


def _uid(name: str) -> int | None:
    if _is_number(name):
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):
        return None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10
