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


class _Content(NamedTuple):
    """What was read from the file, and when it was changed last; `version` is None without the file."""

    version: tuple[int, int, int] | None
    ranges: list[_Range]


class SubordinateUids:
    """The ranges in a file such as /etc/subuid.  The file is read again when it has changed; without it there are no ranges.

    Any thread can use it.
    """

    def __init__(self, path: Path = Path("/etc/subuid")) -> None:
        self._path = path
        # It is replaced as a whole, so that no thread sees one half of a change.  Two threads may read the same change.
        self._content = _Content(None, [])

    def user_of(self, uid: int) -> int:
        """Return the user to whom `uid` is subordinate, or `uid` itself when it is in no range.

        A range of uids that is subordinate to root is a user of its own, with the first uid of the range as its number: they do
        not get root's privileges in limits.
        """
        ranges = self._refresh().ranges
        place = bisect.bisect_right(ranges, uid, key=lambda known: known.start)
        # Ranges may lie within other ranges: the innermost one counts.
        for found in reversed(ranges[:place]):
            if uid < found.end:
                return found.user if found.user != ROOT else found.start
            if uid >= found.latest:
                break
        return uid

    def _refresh(self) -> _Content:
        content = self._content
        try:
            facts = self._path.stat()
            version = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
            if version != content.version:
                content = _Content(version, _parse(self._path.read_text(encoding="utf-8", errors="replace")))
        except OSError:
            content = _Content(None, [])
        self._content = content
        return content


_subordinates = SubordinateUids()


def user_of(uid: int) -> int:
    """Return the user to whom `uid` is counted by /etc/subuid, as `SubordinateUids.user_of` does.  Any thread can call it."""
    return _subordinates.user_of(uid)


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
