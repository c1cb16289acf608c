"""Types, ids and names of namespaces, and what a caller expects a namespace to be."""

import enum
from collections.abc import Mapping
from typing import Self

from msgspec import Struct

from nsbroker.errors import InvalidTarget, InvalidType, TargetChanged
from nsbroker.linux import setns


class NamespaceType(enum.StrEnum):
    """The eight types of namespaces(7), named as in /proc/PID/ns."""

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
        """The CLONE_NEW* flag of the type."""
        return _FLAGS[self]

    @classmethod
    def parse(cls, text: str) -> "NamespaceType":
        """Return the type named `text`.  Raises InvalidType, which lists all types."""
        ns_type = _BY_NAME.get(text) if isinstance(text, str) else None
        if ns_type is None:
            import difflib  # Imported only here, to save memory in the daemon.

            near = difflib.get_close_matches(str(text)[:80], list(cls), 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise InvalidType(f"{str(text)[:80]!r} is no namespace type{hint}: use one of {', '.join(cls)}")
        return ns_type

    @classmethod
    def of_flag(cls, flag: int) -> "NamespaceType":
        """Return the type with this CLONE_NEW* flag.  Raises InvalidType for an unknown flag."""
        if flag not in _TYPES:
            raise InvalidType(f"a namespace of the unknown type {flag:#x}")
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
_DIGITS_MAX = 10  # An inode number of nsfs has 32 bits.
_BY_NAME: Mapping[str, NamespaceType] = {ns_type.value: ns_type for ns_type in NamespaceType}
_TYPES = {flag: ns_type for ns_type, flag in _FLAGS.items()}


NAME_RULE = "letters, digits, '_', '.' and '-', at most 255, not '.' or '..'"
"""What a name of a namespace consists of, for error messages."""


def is_name(text: str) -> bool:
    """Return whether `text` can be the name of a namespace: one path component that is safe to use in a path."""
    return 0 < len(text) <= 255 and text not in (".", "..") and _NAME_CHARACTERS.issuperset(text)


def format_id(ns_type: str, inode: int) -> str:
    """Return the id of a namespace as `ls -l /proc/self/ns` prints it, such as net:[4026531840]."""
    return f"{ns_type}:[{inode}]"


class NamespaceId(Struct, frozen=True):
    """Identifies a namespace by its type and inode.

    If the id was read from an open namespace, `device` is the device number of nsfs and `unique` is the kernel's 64-bit id
    (Linux 6.18).  Unlike an inode, the 64-bit id is never used again.
    """

    type: NamespaceType
    inode: int
    device: int | None = None
    unique: int | None = None

    def __str__(self) -> str:
        """Return the id as `ls -l /proc/self/ns` prints it."""
        return format_id(self.type, self.inode)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an id that is written exactly as `net:[4026531840]`.  Raises InvalidTarget."""
        ns_type, colon, rest = text.partition(":")
        digits = rest[1:-1]
        framed = colon and rest[:1] == "[" and rest[-1:] == "]" and ns_type in _BY_NAME
        if framed and len(digits) <= _DIGITS_MAX and digits.isascii() and digits.isdigit():
            inode = int(digits)
            if 0 < inode < 2**32 and digits[0] != "0":
                return cls(NamespaceType(ns_type), inode)
        raise InvalidTarget(f"{text[:80]!r} is no namespace id: write it as `ls -l /proc/self/ns` does, such as net:[4026531840]")

    def matches(self, other: "NamespaceId") -> bool:
        """Return whether both can be the same namespace: all fields that both of them know are equal."""
        return (
            (self.type, self.inode) == (other.type, other.inode)
            and (None in (self.device, other.device) or self.device == other.device)
            and (None in (self.unique, other.unique) or self.unique == other.unique)
        )


class Expectation(Struct, frozen=True):
    """What the caller expects a namespace and its process to be; if they are anything else, opening fails.

    A field that is None is not checked.  `start_time` is the start time of the process, in clock ticks since boot (field 22
    of /proc/PID/stat).  Without it, the process number may belong to another process by now.
    """

    type: NamespaceType | None = None
    device: int | None = None
    inode: int | None = None
    start_time: int | None = None

    def check_process(self, start_time: int | None, target: str) -> None:
        """Check when the process started; `start_time` is None if the target is no process.  Raises TargetChanged."""
        if self.start_time is not None and start_time != self.start_time:
            started = "is no process" if start_time is None else f"started at {start_time}"
            raise TargetChanged(target, f"it {started}, but a process that started at {self.start_time} was expected")

    def check_namespace(self, found: NamespaceId, target: str) -> None:
        """Check that `found` is the expected namespace.  Raises TargetChanged, which says what differs."""
        for name in ("type", "device", "inode"):
            wanted, is_now = getattr(self, name), getattr(found, name)
            if wanted is not None and wanted != is_now:
                raise TargetChanged(target, f"its {name} is {is_now}, but {wanted} was expected")
