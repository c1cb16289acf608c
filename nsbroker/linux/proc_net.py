"""The statistics of a network, as files in /proc/net have them: see proc_pid_net(5).

The functions take the content of a file as bytes.  They raise ValueError or LookupError for what is no such content.
"""

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

_SIZE_MAX = 1 << 20
_READ_SIZE = 1 << 16
# Two lines say what the columns are.
_HEAD = 2
_RECEIVED, _SENT = slice(0, 4), slice(8, 12)


class LinkCounters(NamedTuple):
    """What one direction of a link has counted: bytes, packets, errors, and packets that were dropped."""

    bytes: int
    packets: int
    errors: int
    drops: int


class Link(NamedTuple):
    """A network interface, and what it has received and sent."""

    name: str
    received: LinkCounters
    sent: LinkCounters


def read(fd: int) -> bytes:
    """Return the whole content of a file of /proc/net (borrows `fd`), as it is now, wherever the position of the file is.

    Raises OSError, and ValueError when it has more than a megabyte.
    """
    parts: list[bytes] = []
    size = 0
    while part := os.pread(fd, _READ_SIZE, size):
        parts.append(part)
        size += len(part)
        if size > _SIZE_MAX:
            raise ValueError(f"a file of statistics has more than {_SIZE_MAX} bytes")
    return b"".join(parts)


def links(dev: bytes) -> list[Link]:
    """Return the interfaces in the file `dev`.  Bytes of a name that are no UTF-8 become escapes."""
    found = []
    for line in dev.splitlines()[_HEAD:]:
        name, colon, rest = line.rpartition(b":")
        if not colon:
            raise ValueError("a line of dev has no name")
        values = [int(value) for value in rest.split()]
        if len(values) < _SENT.stop:
            raise ValueError("a line of dev has too few columns")
        text = name.strip().decode(errors="backslashreplace")
        found.append(Link(text, LinkCounters(*values[_RECEIVED]), LinkCounters(*values[_SENT])))
    return found


def counters(text: bytes, group: str, names: Sequence[str]) -> list[int]:
    """Return the counters `names` of one group, such as Tcp in `snmp` and TcpExt in `netstat`."""
    lines = text.splitlines()
    beginning = f"{group}:".encode()
    for head, values in zip(lines[::2], lines[1::2], strict=False):
        if head.startswith(beginning):
            numbers = values.split()
            return [int(numbers[column]) for column in _columns(head, tuple(names))]
    raise LookupError(f"there are no counters {group}")


@lru_cache(maxsize=8)
def _columns(head: bytes, names: Sequence[str]) -> list[int]:
    """Return where the counters stand in the line below `head`, which is the same in all networks and is long."""
    known = head.decode().split()
    return [known.index(name) for name in names]


def sockets(sockstat: bytes) -> dict[str, dict[str, int]]:
    """Return the numbers in `sockstat` or `sockstat6` by protocol and name, such as `found["TCP"]["inuse"]`.

    Of these, `used`, `inuse` and `tw` are numbers of the network.  The others are those of the whole host.
    """
    found = {}
    for line in sockstat.decode().splitlines():
        protocol, _, rest = line.partition(":")
        words = rest.split()
        found[protocol] = dict(zip(words[::2], map(int, words[1::2]), strict=True))
    return found
