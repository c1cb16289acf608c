"""What rules can allow.

Rules allow to open namespaces by type, sockets by family and type, devices by name and number, and files by name.  They also allow
to have sockets marked, interfaces of a kind added, and namespaces of a type created, or held under a name.
"""

import functools
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Self

from msgspec import Struct

from nsbroker.daemon.policy.frozen_sets import frozen
from nsbroker.errors import ConfigurationError
from nsbroker.model.identity import NamespaceType
from nsbroker.model.interface import InterfaceKind
from nsbroker.model.socket_kind import SocketKind
from nsbroker.model.target_file import NAMES

_NAME = re.compile(r"[A-Za-z0-9_.:@-]+(/[A-Za-z0-9_.:@-]+)*")
_MARK = "(0x[0-9a-fA-F]{1,8}|[1-9][0-9]{0,9})"
_MARKS = re.compile(f"{_MARK}(?:-{_MARK})?", re.ASCII)
_NAME_MAX = 255
_DEPTH_MAX = 8
_NUMBER_MAX = 2**20 - 1


class DeviceNumber(NamedTuple):
    """The device that a device node stands for."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}:{self.minor}"


class Device(NamedTuple):
    """A character device by its name below /dev.  `number` is None until the device node has been looked at."""

    name: str
    number: DeviceNumber | None = None

    def __str__(self) -> str:
        what = f"device {self.name}" if self.name else "devices"
        return what if self.number is None else f"{what} ({self.number})"


SOME_DEVICE = Device("")
"""Stands for any device at all.  It is what a peer needs in order to list the devices."""

EVERY_DEVICE = Device("*")
"""Stands for all devices.  Whoever may open them all may see every name below /dev.  No rule can name it otherwise."""


# Creation, Holding and File are no tuples: these would be equal for the same type, and verdicts are remembered by what was wanted.
class Creation(Struct, frozen=True):
    """The creation of a namespace."""

    type: NamespaceType

    def __str__(self) -> str:
        return f"create {self.type}"


class Holding(Struct, frozen=True):
    """The holding of a namespace: the broker keeps it alive under a name."""

    type: NamespaceType

    def __str__(self) -> str:
        return f"hold {self.type}"


class File(Struct, frozen=True):
    """A file of the target, by one of the names in `model.target_file`."""

    name: str

    def __str__(self) -> str:
        return f"file {self.name}"


class Mark(NamedTuple):
    """A mark that a socket is given (SO_MARK in socket(7))."""

    value: int

    def __str__(self) -> str:
        return f"mark {self.value:#x}"


MARK_MAX = 2**32 - 1
"""The largest mark.  The smallest is 1, because 0 means that a socket has none."""

Permission = NamespaceType | SocketKind | Device | File | Creation | Holding | Mark | InterfaceKind
"""One thing that a peer can ask for."""

# The devices that containers get, as in the kernel's Documentation/admin-guide/devices.txt.  Rules need not give their numbers.
_KNOWN: Mapping[str, DeviceNumber] = {
    "null": DeviceNumber(1, 3),
    "zero": DeviceNumber(1, 5),
    "full": DeviceNumber(1, 7),
    "random": DeviceNumber(1, 8),
    "urandom": DeviceNumber(1, 9),
    "ptmx": DeviceNumber(5, 2),
    "net/tun": DeviceNumber(10, 200),
    "uinput": DeviceNumber(10, 223),
    "fuse": DeviceNumber(10, 229),
    "kvm": DeviceNumber(10, 232),
    "loop-control": DeviceNumber(10, 237),
    "vhost-net": DeviceNumber(10, 238),
    "vfio/vfio": DeviceNumber(10, 196),
}


def device_in_rule(name: str) -> str:
    """Return how a rule names a device: other than well-known ones with a place for the number."""
    return name if name in _KNOWN else f"{name}=MAJOR:MINOR"


def is_device_name(text: str) -> bool:
    """Return whether `text` can name a device: at most eight path components, without '.' and '..'."""
    parts = text.split("/")
    return len(text) <= _NAME_MAX and len(parts) <= _DEPTH_MAX and not {".", ".."} & set(parts) and bool(_NAME.fullmatch(text))


class Allowance(Struct, frozen=True):
    """What one scope allows, such as a rule."""

    namespaces: frozenset[NamespaceType]
    sockets: frozenset[SocketKind]
    devices: Mapping[str, DeviceNumber]
    any_socket: bool
    any_device: bool
    create: frozenset[NamespaceType]
    hold: frozenset[NamespaceType]
    marks: tuple[range, ...]
    interfaces: frozenset[InterfaceKind]
    files: frozenset[str]

    @classmethod
    def parse(
        cls,
        *,
        namespaces: Iterable[str] = (),
        sockets: Iterable[str] = (),
        devices: Iterable[str] = (),
        create: Iterable[str] = (),
        hold: Iterable[str] = (),
        marks: Iterable[str] = (),
        interfaces: Iterable[str] = (),
        files: Iterable[str] = (),
    ) -> Self:
        """Parse what is allowed, with `*` for all.  Raises ConfigurationError, InvalidType."""
        kinds, nodes = set(sockets), set(devices)
        types, new, held = map(_parse_types, (namespaces, create, hold))
        ranges = tuple(map(_parse_marks, marks))
        return cls(
            types,
            frozen(map(SocketKind.parse, kinds - {"*"})),
            _parse_devices(nodes - {"*"}),
            "*" in kinds,
            "*" in nodes,
            new,
            held,
            ranges,
            _parse_interfaces(interfaces),
            _parse_files(files),
        )

    def allows(self, wanted: Permission) -> bool:
        """Return whether it allows `wanted`."""
        if isinstance(wanted, NamespaceType):
            return wanted in self.namespaces
        if isinstance(wanted, SocketKind):
            return self.any_socket or wanted in self.sockets
        if isinstance(wanted, Creation):
            return wanted.type in self.create
        if isinstance(wanted, Holding):
            return wanted.type in self.hold
        if isinstance(wanted, Mark):
            return any(wanted.value in marks for marks in self.marks)
        if isinstance(wanted, InterfaceKind):
            return wanted in self.interfaces
        if isinstance(wanted, File):
            return wanted.name in self.files
        if wanted == SOME_DEVICE:
            return self.any_device or bool(self.devices)
        # A rule for any device does not allow another device that was put under a well-known name.
        number = self.devices.get(wanted.name) or _KNOWN.get(wanted.name)
        named = self.any_device or wanted.name in self.devices
        return named and (number is None or wanted.number in (None, number))


def _parse_types(texts: Iterable[str]) -> frozenset[NamespaceType]:
    return _types_of(frozen(texts))


@functools.lru_cache(maxsize=256)
def _types_of(words: frozenset[str]) -> frozenset[NamespaceType]:
    """Return the types that these words mean.  Rules with the same words share the set."""
    return frozen(NamespaceType if "*" in words else map(NamespaceType.parse, words))


def _parse_marks(text: str) -> range:
    """Return the marks that `text` means: `*`, one such as 0x100, or all from one to another, such as 0x200-0x2ff."""
    if text == "*":
        return range(1, MARK_MAX + 1)
    match = _MARKS.fullmatch(text)
    first = int(match[1], 0) if match else 0
    last = int(match[2] or match[1], 0) if match else 0
    if not 0 < first <= last <= MARK_MAX:
        raise ConfigurationError(f"{text!r}: write a number from 1 to {MARK_MAX:#x}, or two of them, such as 0x200-0x2ff")
    return range(first, last + 1)


def _parse_interfaces(texts: Iterable[str]) -> frozenset[InterfaceKind]:
    words = set(texts)
    for text in sorted(words - {"*", *InterfaceKind}):
        raise ConfigurationError(f"{text!r} is no kind of interface: use one of {', '.join(InterfaceKind)}, or *")
    return frozen(InterfaceKind if "*" in words else map(InterfaceKind, words))


def _parse_files(texts: Iterable[str]) -> frozenset[str]:
    words = set(texts)
    unknown = sorted(words - {"*", *NAMES})
    if unknown:
        raise ConfigurationError(f"{unknown[0]!r} is none of {', '.join(NAMES)}, or * for all")
    return frozen(NAMES if "*" in words else words)


def _parse_devices(texts: Iterable[str]) -> dict[str, DeviceNumber]:
    found: dict[str, DeviceNumber] = {}
    for text in texts:
        name, number = _parse_device(text)
        if found.setdefault(name, number) != number:
            raise ConfigurationError(f"devices: {name!r} cannot be both {found[name]} and {number}: write two rules")
    return found


def _parse_device(text: str) -> tuple[str, DeviceNumber]:
    name, equals, written = text.partition("=")
    if not is_device_name(name):
        raise ConfigurationError(f"{text!r} is no name below /dev: write it as null or net/tun, without . and ..")
    number = _KNOWN.get(name)
    if equals:
        number = _parse_number(text, written)
    if number is None:
        raise ConfigurationError(f"{text!r}: say which device that is: {name}=MAJOR:MINOR (`ls -l /dev/{name}` shows both)")
    return name, number


def _parse_number(text: str, written: str) -> DeviceNumber:
    match = re.fullmatch(r"([0-9]{1,7}):([0-9]{1,7})", written, re.ASCII)
    if match is None or max(int(match[1]), int(match[2])) > _NUMBER_MAX:
        raise ConfigurationError(f"{text!r}: write NAME=MAJOR:MINOR, such as kvm=10:232")
    return DeviceNumber(int(match[1]), int(match[2]))
