"""What rules allow: namespaces by type, sockets by family and type, devices by name and number; and to have namespaces of a
type made, or held under a name.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

from nsbroker.errors import ConfigurationError, InvalidType
from nsbroker.model.identity import NamespaceType
from nsbroker.model.socket_kind import SocketKind

_NAME = re.compile(r"[A-Za-z0-9_.:@-]+(/[A-Za-z0-9_.:@-]+)*")
_NAME_MAX = 255
_DEPTH_MAX = 8
_NUMBER_MAX = 2**20 - 1


class DeviceNumber(NamedTuple):
    """Which device a node stands for."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}:{self.minor}"


class Device(NamedTuple):
    """A character device by its name below /dev.  `number` is None as long as nobody has looked at it."""

    name: str
    number: DeviceNumber | None = None


SOME_DEVICE = Device("")
"""Any device at all: what is asked for by who wants to know which there are."""


class Creation(NamedTuple):
    """A new namespace."""

    type: NamespaceType

    def __str__(self) -> str:
        return f"create {self.type}"


class Holding(NamedTuple):
    """A namespace that the broker keeps alive under a name."""

    type: NamespaceType

    def __str__(self) -> str:
        return f"hold {self.type}"


Permission = NamespaceType | SocketKind | Device | Creation | Holding
"""One thing that can be asked for."""

# The kernel's Documentation/admin-guide/devices.txt, what containers get: a rule need not say which numbers these have.
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


def is_device_name(text: str) -> bool:
    """Whether `text` can name a device: harmless path components, at most eight."""
    parts = text.split("/")
    return len(text) <= _NAME_MAX and len(parts) <= _DEPTH_MAX and not {".", ".."} & set(parts) and bool(_NAME.fullmatch(text))


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one rule allows."""

    namespaces: frozenset[NamespaceType]
    sockets: frozenset[SocketKind]
    devices: Mapping[str, DeviceNumber]
    any_socket: bool
    any_device: bool
    create: frozenset[NamespaceType]
    hold: frozenset[NamespaceType]

    @classmethod
    def parse(
        cls,
        namespaces: Iterable[str],
        sockets: Iterable[str],
        devices: Iterable[str],
        create: Iterable[str] = (),
        hold: Iterable[str] = (),
    ) -> Self:
        """As a rule writes it, `*` for all.  Raises ConfigurationError, InvalidType."""
        kinds, nodes = set(sockets), set(devices)
        types, new, held = map(_types, (namespaces, create, hold))
        if not (types or kinds or nodes or new or held):
            raise ConfigurationError("it allows nothing: give it namespaces, sockets, devices, create or hold")
        return cls(types, frozenset(map(_socket, kinds - {"*"})), _devices(nodes - {"*"}), "*" in kinds, "*" in nodes, new, held)

    def allows(self, wanted: Permission) -> bool:
        """Whether `wanted` is in it."""
        if isinstance(wanted, NamespaceType):
            return wanted in self.namespaces
        if isinstance(wanted, SocketKind):
            return self.any_socket or wanted in self.sockets
        if isinstance(wanted, Creation):
            return wanted.type in self.create
        if isinstance(wanted, Holding):
            return wanted.type in self.hold
        if wanted == SOME_DEVICE:
            return self.any_device or bool(self.devices)
        # Whoever may have any device still gets, under a name that everyone knows, no other one.
        number = self.devices.get(wanted.name) or _KNOWN.get(wanted.name)
        named = self.any_device or wanted.name in self.devices
        return named and (number is None or wanted.number in (None, number))


def _types(texts: Iterable[str]) -> frozenset[NamespaceType]:
    words = set(texts)
    return frozenset(NamespaceType if "*" in words else map(NamespaceType.parse, words))


def _socket(text: str) -> SocketKind:
    try:
        return SocketKind.parse(text)
    except InvalidType as error:
        raise ConfigurationError(f"sockets: {error}") from error


def _devices(texts: Iterable[str]) -> dict[str, DeviceNumber]:
    found: dict[str, DeviceNumber] = {}
    for text in texts:
        name, number = _device(text)
        if found.setdefault(name, number) != number:
            raise ConfigurationError(f"devices: {name!r} cannot be both {found[name]} and {number}: write two rules")
    return found


def _device(text: str) -> tuple[str, DeviceNumber]:
    name, equals, written = text.partition("=")
    if not is_device_name(name):
        raise ConfigurationError(f"devices: {text!r} is no name below /dev: write it as null or net/tun, without . and ..")
    number = _KNOWN.get(name)
    if equals:
        number = _number(text, written)
    if number is None:
        raise ConfigurationError(
            f"devices: {text!r}: say which device that is: {name}=MAJOR:MINOR (`ls -l /dev/{name}` shows both)"
        )
    return name, number


def _number(text: str, written: str) -> DeviceNumber:
    match = re.fullmatch(r"([0-9]{1,7}):([0-9]{1,7})", written, re.ASCII)
    if match is None or max(int(match[1]), int(match[2])) > _NUMBER_MAX:
        raise ConfigurationError(f"devices: {text!r}: write NAME=MAJOR:MINOR, such as kvm=10:232")
    return DeviceNumber(int(match[1]), int(match[2]))
