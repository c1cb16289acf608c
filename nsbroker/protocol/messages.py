"""io.nsbroker.Broker: its messages as Structs.  The text beside this file is the contract; a test compares the two."""

import enum
import os
from pathlib import Path
from typing import Annotated, Self

from msgspec import Meta, Struct, field

from nsbroker.errors import InvalidParameter, InvalidTarget
from nsbroker.model.description import NamespaceDescription, WatchEvent
from nsbroker.model.identity import Expectation, NamespaceType
from nsbroker.model.socket_kind import SocketFamily, SocketType
from nsbroker.model.target import PID_MAX, Kind, Target

NAME = "io.nsbroker.Broker"
TEXT = Path(__file__).with_name(f"{NAME}.varlink")

OPEN = f"{NAME}.Open"
OPEN_SOCKET = f"{NAME}.OpenSocket"
LIST_DEVICES = f"{NAME}.ListDevices"
OPEN_DEVICE = f"{NAME}.OpenDevice"
WHO_AM_I = f"{NAME}.WhoAmI"
EXPLAIN = f"{NAME}.Explain"
LIST = f"{NAME}.List"
WATCH = f"{NAME}.Watch"
LIST_CONTAINERS = f"{NAME}.ListContainers"
CREATE = f"{NAME}.Create"
HOLD = f"{NAME}.Hold"
RELEASE = f"{NAME}.Release"
LIST_HELD = f"{NAME}.ListHeld"
GET_STATUS = f"{NAME}.GetStatus"

_Pid = Annotated[int, Meta(ge=1, le=PID_MAX)]


class TargetSpec(Struct, rename="camel", omit_defaults=True, forbid_unknown_fields=True):
    """A target on the wire: one field set."""

    pid: _Pid | None = None
    tid: _Pid | None = None
    pid_file_descriptor: int | None = None
    name: str | None = None
    container: str | None = None
    engine: str | None = None
    unit: str | None = None
    namespace: str | None = None
    path: str | None = None
    peer: bool | None = field(default=None, name="self")

    @classmethod
    def of(cls, target: Target) -> Self:
        """`target` for the wire.  A pidfd is the message's only fd, index 0."""
        match target.kind:
            case Kind.PID:
                return cls(pid=target.pid)
            case Kind.TID:
                return cls(pid=target.pid, tid=target.tid)
            case Kind.PIDFD:
                return cls(pid_file_descriptor=0)
            case Kind.CONTAINER:
                return cls(container=target.value, engine=target.engine or None)
            case Kind.SELF:
                return cls(peer=True)
            case Kind.NAME:
                return cls(name=target.value)
            case Kind.UNIT:
                return cls(unit=target.value)
            case Kind.NAMESPACE:
                return cls(namespace=target.value)
            case Kind.PATH:
                return cls(path=target.value)

    def to_target(self) -> Target:
        """The target it means.  Raises InvalidParameter: none, several, or a malformed one."""
        pid = self.pid
        if pid is not None and self == TargetSpec(pid=pid):
            return Target(Kind.PID, str(pid), pid)
        try:
            return self._parse()
        except InvalidTarget as error:
            raise InvalidParameter("target") from error

    def _parse(self) -> Target:
        given = {field for field in self.__struct_fields__ if getattr(self, field) is not None}
        match sorted(given):
            case ["pid", "tid"]:
                return Target.thread(self.pid or 0, self.tid or 0)
            case ["pid_file_descriptor"]:
                return Target(Kind.PIDFD)
            case ["name"]:
                return Target.named(self.name or "")
            case ["container"] | ["container", "engine"]:
                return Target.container(self.container or "", self.engine or "")
            case ["unit"]:
                return Target.unit(self.unit or "")
            case ["namespace"]:
                return Target.namespace(self.namespace or "")
            case ["path"]:
                return Target.path(self.path or "")
            case ["peer"] if self.peer:
                return Target.peer()
        raise InvalidParameter("target")


class ExpectationSpec(Struct, rename="camel", omit_defaults=True, forbid_unknown_fields=True):
    """An expectation on the wire."""

    type: NamespaceType | None = None
    device: int | None = None
    inode: int | None = None
    start_time: int | None = None

    @classmethod
    def of(cls, expect: Expectation) -> Self:
        """`expect` for the wire."""
        return cls(expect.type, expect.device, expect.inode, expect.start_time)

    def to_expectation(self) -> Expectation:
        """The expectation it means."""
        return Expectation(self.type, self.device, self.inode, self.start_time)


class ExplainRequest(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The parameters of Explain."""

    target: TargetSpec
    types: list[NamespaceType] | None = None
    sockets: list[str] | None = None
    devices: list[str] | None = None


class OpenRequest(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The parameters of Open."""

    target: TargetSpec
    types: list[NamespaceType] | None = None
    expect: ExpectationSpec | None = None


class OpenedNamespace(Struct, rename="camel"):
    """One namespace in the reply of Open."""

    type: NamespaceType
    device: int
    inode: int
    namespace_file_descriptor: int


class OpenReply(Struct):
    """The reply of Open."""

    namespaces: list[OpenedNamespace]


class SocketAddress(Struct, forbid_unknown_fields=True):
    """Where a socket is bound."""

    address: str
    port: int


class OpenSocketRequest(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The parameters of OpenSocket."""

    target: TargetSpec
    family: SocketFamily
    type: SocketType
    protocol: int | None = None
    bind: SocketAddress | None = None


class OpenSocketReply(Struct, rename="camel"):
    """The reply of OpenSocket."""

    socket_file_descriptor: int


class ListDevicesRequest(Struct, forbid_unknown_fields=True):
    """The parameters of ListDevices."""

    target: TargetSpec


class DeviceDescription(Struct):
    """A character device in the reply of ListDevices."""

    name: str
    major: int
    minor: int


class ListDevicesReply(Struct):
    """The reply of ListDevices."""

    devices: list[DeviceDescription]


class DeviceAccess(enum.StrEnum):
    """What a device is opened for."""

    READ = "read"
    WRITE = "write"
    READ_WRITE = "readWrite"

    @property
    def flags(self) -> int:
        """For open(2)."""
        return {"read": os.O_RDONLY, "write": os.O_WRONLY, "readWrite": os.O_RDWR}[self]

    @classmethod
    def of_flags(cls, flags: int) -> "DeviceAccess":
        """The access mode among flags of open(2), all others dropped.  Raises ValueError for none that there is."""
        for access in cls:
            if access.flags == flags & os.O_ACCMODE:
                return access
        raise ValueError(f"{flags:#o} are no flags to open a device with: use os.O_RDONLY, os.O_WRONLY or os.O_RDWR")


class OpenDeviceRequest(Struct, forbid_unknown_fields=True):
    """The parameters of OpenDevice."""

    target: TargetSpec
    name: str
    access: DeviceAccess


class OpenDeviceReply(Struct, rename="camel"):
    """The reply of OpenDevice."""

    device_file_descriptor: int


class PeerDescription(Struct, omit_defaults=True):
    """Who the broker takes a caller for."""

    uid: int
    gid: int
    groups: list[int]
    pid: int
    anonymous: bool
    unit: str | None = None


class WhoAmIReply(Struct):
    """The reply of WhoAmI."""

    peer: PeerDescription


class TypeVerdict(Struct, omit_defaults=True):
    """What the policy says about one type."""

    type: NamespaceType
    allowed: bool
    rule: str | None = None


class PermissionVerdict(Struct, omit_defaults=True):
    """What the policy says about a kind of socket or a device."""

    name: str
    allowed: bool
    rule: str | None = None


class ExplainReply(Struct, omit_defaults=True):
    """The reply of Explain."""

    target: str
    allowed: bool
    verdicts: list[TypeVerdict]
    sockets: list[PermissionVerdict] | None = None
    devices: list[PermissionVerdict] | None = None


class ContainerDescription(Struct, rename="camel", omit_defaults=True):
    """A container in a reply of ListContainers."""

    engine: str
    id: str
    names: list[str]
    state: str
    pid: int
    types: list[NamespaceType]
    labels: dict[str, str]
    network_namespace: int | None = None
    pod: str | None = None


class UnavailableEngine(Struct):
    """An engine that could not be asked, in a reply of ListContainers."""

    engine: str
    reason: str


class ListContainersReply(Struct, omit_defaults=True):
    """One reply of ListContainers; the last one is empty."""

    container: ContainerDescription | None = None
    unavailable: UnavailableEngine | None = None


class ListRequest(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The parameters of List."""

    types: list[NamespaceType] | None = None
    target: TargetSpec | None = None


class ListReply(Struct, omit_defaults=True):
    """One reply of List; the last one is empty."""

    namespace: NamespaceDescription | None = None


class WatchRequest(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The parameters of Watch."""

    types: list[NamespaceType] | None = None


class WatchReply(Struct, omit_defaults=True):
    """One reply of Watch."""

    event: WatchEvent
    namespace: NamespaceDescription | None = None


class CreateRequest(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The parameters of Create."""

    types: list[NamespaceType]
    name: str | None = None


class CreateReply(Struct):
    """The reply of Create."""

    namespaces: list[OpenedNamespace]
    durable: bool


class HoldRequest(Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The parameters of Hold."""

    target: TargetSpec
    types: list[NamespaceType] | None = None
    name: str


class HoldReply(Struct):
    """The reply of Hold."""

    durable: bool


class ReleaseRequest(Struct, forbid_unknown_fields=True):
    """The parameters of Release."""

    name: str


class HeldDescription(Struct):
    """A held namespace in a reply of ListHeld."""

    name: str
    uid: int
    type: NamespaceType
    inode: int
    durable: bool


class ListHeldReply(Struct, omit_defaults=True):
    """One reply of ListHeld; the last one is empty."""

    held: HeldDescription | None = None


class Status(Struct, rename="camel", omit_defaults=True):
    """The reply of GetStatus."""

    version: str
    features: dict[str, bool]
    rules: int
    loaded: float
    held_durable: bool
    connections: int | None = None
    calls: int | None = None
    file_descriptors: int | None = None
    held: int | None = None
