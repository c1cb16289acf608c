"""Who a uid's use of the broker is counted to.

A user is a uid together with the subordinate uids that /etc/subuid gives it (subuid(5), newuidmap(1)): with them, one
person can connect as 65 536 uids.
"""

import bisect
import pwd
from pathlib import Path
from typing import NamedTuple

ANONYMOUS = -1
"""The user that all peers are counted to whose uid proves nothing."""

ROOT = 0
"""The host's root, as far as it is shown to be: see `Peer`."""


class _Range(NamedTuple):
    start: int
    end: int
    user: int
    latest: int = 0
    """The latest end of this range and of all that start before it."""


class SubordinateUids:
    """The ranges in a file such as /etc/subuid.  The file is read again when it has changed; without it there are none."""

    def __init__(self, path: Path = Path("/etc/subuid")) -> None:
        self._path = path
        self._version: tuple[int, int, int] | None = None
        self._ranges: list[_Range] = []

    def user_of(self, uid: int) -> int:
        """The uid to whom `uid` is subordinate; `uid` itself when it is nobody's.

        Uids that are subordinate to root are a user of their own, named by the first of them: root's privileges in limits
        are for root alone.
        """
        self._refresh()
        place = bisect.bisect_right(self._ranges, uid, key=lambda one: one.start)
        # Ranges may lie within others: the innermost one counts.
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
    """The ranges, sorted by their start; a line that is not understood gives none, as for newuidmap(1)."""
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
