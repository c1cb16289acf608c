"""What namespaces are called: their types, their ids, and what a caller can expect one to be."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from nsbroker.errors import InvalidTarget, InvalidType, TargetChanged
from nsbroker.linux import setns


class NamespaceType(enum.StrEnum):
    """The eight types, named as in /proc/PID/ns (namespaces(7))."""

    CGROUP = "cgroup"
    IPC = "ipc"
    MNT = "mnt"
    NET = "net"
    PID = "pid"
    TIME = "time"
    USER = "user"
    UTS = "uts"

    @property
    def flag(self) -> int:
        """Its CLONE_NEW* flag."""
        return _FLAGS[self]

    @classmethod
    def parse(cls, text: str) -> "NamespaceType":
        """`text` as a type; raises InvalidType, which lists all types."""
        kind = _BY_NAME.get(text) if isinstance(text, str) else None
        if kind is None:
            raise InvalidType(f"{str(text)[:80]!r} is no namespace type: use one of {', '.join(cls)}")
        return kind

    @classmethod
    def of_flag(cls, flag: int) -> "NamespaceType":
        """The type with that CLONE_NEW* flag; raises InvalidType."""
        if flag not in _TYPES:
            raise InvalidType(f"a namespace of an unknown type {flag:#x}")
        return _TYPES[flag]


_FLAGS: Mapping[NamespaceType, int] = {
    NamespaceType.CGROUP: setns.CLONE_NEWCGROUP,
    NamespaceType.IPC: setns.CLONE_NEWIPC,
    NamespaceType.MNT: setns.CLONE_NEWNS,
    NamespaceType.NET: setns.CLONE_NEWNET,
    NamespaceType.PID: setns.CLONE_NEWPID,
    NamespaceType.TIME: setns.CLONE_NEWTIME,
    NamespaceType.USER: setns.CLONE_NEWUSER,
    NamespaceType.UTS: setns.CLONE_NEWUTS,
}
_NAME_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")
_DIGITS_MAX = 10  # of an inode: the kernel has 32 bits for it
_BY_NAME: Mapping[str, NamespaceType] = {kind.value: kind for kind in NamespaceType}
_TYPES = {flag: kind for kind, flag in _FLAGS.items()}


NAME_RULE = "letters, digits, '_', '.' and '-', at most 255, not '.' or '..'"
"""How the name of a namespace is written."""


def is_name(text: str) -> bool:
    """Whether `text` can name a namespace: one harmless path component."""
    return 0 < len(text) <= 255 and text not in (".", "..") and _NAME_CHARACTERS.issuperset(text)


@dataclass(frozen=True, slots=True)
class NamespaceId:
    """Which namespace: its type and inode, and where it was read from a handle also the device of nsfs and (Linux 6.18)
    the kernel's 64-bit id, which unlike an inode is never used again.
    """

    type: NamespaceType
    inode: int
    device: int | None = None
    unique: int | None = None

    def __str__(self) -> str:
        """As `ls -l /proc/self/ns` prints it."""
        return f"{self.type}:[{self.inode}]"

    @classmethod
    def parse(cls, text: str) -> Self:
        """`net:[4026531840]`, nothing else; raises InvalidTarget."""
        kind, colon, rest = text.partition(":")
        digits = rest[1:-1]
        framed = colon and rest[:1] == "[" and rest[-1:] == "]" and kind in _BY_NAME
        if framed and len(digits) <= _DIGITS_MAX and digits.isascii() and digits.isdigit():
            inode = int(digits)
            if 0 < inode < 2**32 and digits[0] != "0":
                return cls(NamespaceType(kind), inode)
        raise InvalidTarget(f"{text[:80]!r} is no namespace id: write it as `ls -l /proc/self/ns` does, such as net:[4026531840]")

    def matches(self, other: "NamespaceId") -> bool:
        """Whether both can mean the same namespace: what both know is equal."""
        return (
            (self.type, self.inode) == (other.type, other.inode)
            and (None in (self.device, other.device) or self.device == other.device)
            and (None in (self.unique, other.unique) or self.unique == other.unique)
        )


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a namespace, and the process it is of, were when they were last looked at: opening anything else is refused.

    What is None is not checked.  `start_time` is the process's, in clock ticks since boot (field 22 of /proc/PID/stat);
    without it a process number may by now mean another process.
    """

    type: NamespaceType | None = None
    device: int | None = None
    inode: int | None = None
    start_time: int | None = None

    def see_process(self, start_time: int | None, target: str) -> None:
        """Raises TargetChanged when the process (None: the target is none) did not start when it should have."""
        if self.start_time is not None and start_time != self.start_time:
            started = "is no process" if start_time is None else f"started at {start_time}"
            raise TargetChanged(target, f"it {started}, one that started at {self.start_time} was expected")

    def see_namespace(self, found: NamespaceId, target: str) -> None:
        """Raises TargetChanged, which says what differs, when `found` is not the namespace that was expected."""
        for name in ("type", "device", "inode"):
            wanted, is_now = getattr(self, name), getattr(found, name)
            if wanted is not None and wanted != is_now:
                raise TargetChanged(target, f"its {name} is {is_now}, {wanted} was expected")
