"""The messages of io.nsbroker.Broker as Structs.  The .varlink file beside this one defines them; a test compares the two."""

from pathlib import Path
from typing import Annotated, Self

from msgspec import Meta, Struct, field

from nsbroker.errors import InvalidParameter, InvalidTarget
from nsbroker.model.description import NamespaceDescription, WatchEvent
from nsbroker.model.device_access import DeviceAccess
from nsbroker.model.identity import Expectation, NamespaceType
from nsbroker.model.socket_kind import SocketFamily, SocketType
from nsbroker.model.target import PID_MAX, Target, TargetKind

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
RESTRICT = f"{NAME}.Restrict"
GET_STATUS = f"{NAME}.GetStatus"

_Pid = Annotated[int, Meta(ge=1, le=PID_MAX)]


class TargetSpec(Struct, rename="camel", omit_defaults=True, forbid_unknown_fields=True):
    """A target as a message has it: one field is set, or `pid` and `tid`, or `container` and `engine`."""

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
        """Return `target` as a message has it.  A pidfd is the only fd of the message, so its index is 0."""
        match target.kind:
            case TargetKind.PID:
                return cls(pid=target.pid)
            case TargetKind.TID:
                return cls(pid=target.pid, tid=target.tid)
            case TargetKind.PIDFD:
                return cls(pid_file_descriptor=0)
            case TargetKind.CONTAINER:
                return cls(container=target.value, engine=target.engine or None)
            case TargetKind.SELF:
                return cls(peer=True)
            case TargetKind.NAME:
                return cls(name=target.value)
            case TargetKind.UNIT:
                return cls(unit=target.value)
            case TargetKind.NAMESPACE:
                return cls(namespace=target.value)
            case TargetKind.PATH:
                return cls(path=target.value)

    def to_target(self) -> Target:
        """Return the target.  Raises InvalidParameter if no target or more than one is set, or it is malformed."""
        pid = self.pid
        if pid is not None and self == TargetSpec(pid=pid):
            return Target(TargetKind.PID, str(pid), pid)
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
                return Target(TargetKind.PIDFD)
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
    """An expectation as a message has it."""

    type: NamespaceType | None = None
    device: int | None = None
    inode: int | None = None
    start_time: int | None = None

    @classmethod
    def of(cls, expect: Expectation) -> Self:
        """Return `expect` as a message has it."""
        return cls(expect.type, expect.device, expect.inode, expect.start_time)

    def to_expectation(self) -> Expectation:
        """Return the expectation."""
        return Expectation(self.type, self.device, self.inode, self.start_time)


class ExplainRequest(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The parameters of Explain."""

    target: TargetSpec
    types: list[NamespaceType] | None = None
    sockets: list[str] | None = None
    devices: list[str] | None = None
    marks: list[int] | None = None
    files: list[str] | None = None


class OpenRequest(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The parameters of Open."""

    target: TargetSpec
    types: list[NamespaceType] | None = None
    expect: ExpectationSpec | None = None


class OpenedNamespace(Struct, rename="camel"):
    """A namespace in the reply of Open or Create."""

    type: NamespaceType
    device: int
    inode: int
    namespace_file_descriptor: int


class OpenReply(Struct):
    """The reply of Open."""

    namespaces: list[OpenedNamespace]


class SocketAddress(Struct, forbid_unknown_fields=True):
    """The address that a socket is bound to."""

    address: str
    port: int


class OpenSocketRequest(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The parameters of OpenSocket."""

    target: TargetSpec
    family: SocketFamily
    type: SocketType
    protocol: int | None = None
    bind: SocketAddress | None = None
    mark: int | None = None


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


class OpenDeviceRequest(Struct, forbid_unknown_fields=True, rename="camel", omit_defaults=True):
    """The parameters of OpenDevice."""

    target: TargetSpec
    name: str
    access: DeviceAccess
    non_blocking: bool | None = None


class OpenDeviceReply(Struct, rename="camel"):
    """The reply of OpenDevice."""

    device_file_descriptor: int


class PeerDescription(Struct, rename="camel", omit_defaults=True):
    """Who the caller is, as the kernel describes it to the broker."""

    uid: int
    gid: int
    groups: list[int]
    pid: int
    anonymous: bool
    unit: str | None = None
    container: str | None = None
    container_unknown: str | None = None


class WhoAmIReply(Struct):
    """The reply of WhoAmI."""

    peer: PeerDescription


class TypeVerdict(Struct, omit_defaults=True):
    """Whether the policy allows opening one type of namespace, and the rule that does."""

    type: NamespaceType
    allowed: bool
    rule: str | None = None


class PermissionVerdict(Struct, omit_defaults=True):
    """Whether the policy allows one kind of socket, one mark or one device, and the rule that does."""

    name: str
    allowed: bool
    rule: str | None = None


class ExplainReply(Struct, rename="camel", omit_defaults=True):
    """The reply of Explain."""

    target: str
    allowed: bool
    verdicts: list[TypeVerdict]
    sockets: list[PermissionVerdict] | None = None
    devices: list[PermissionVerdict] | None = None
    marks: list[PermissionVerdict] | None = None
    files: list[PermissionVerdict] | None = None
    container_unknown: str | None = None


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
    """An engine that the broker could not ask, in a reply of ListContainers."""

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


class RestrictRequest(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The parameters of Restrict."""

    targets: list[str]
    namespaces: list[NamespaceType] | None = None
    sockets: list[str] | None = None
    devices: list[str] | None = None
    files: list[str] | None = None
    create: list[NamespaceType] | None = None
    hold: list[NamespaceType] | None = None


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
