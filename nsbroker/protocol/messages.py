"""The messages of io.nsbroker.Broker as Structs.  The .varlink file beside this one defines them; a test compares the two."""

from pathlib import Path

from msgspec import Struct, field

from nsbroker.model.description import NamespaceDescription, WatchEvent
from nsbroker.model.device_access import DeviceAccess
from nsbroker.model.file_description import FileDescription
from nsbroker.model.identity import NamespaceType
from nsbroker.model.interface import InterfaceKind
from nsbroker.model.socket_kind import SocketFamily, SocketType
from nsbroker.protocol.target_spec import ExpectationSpec, TargetSpec

NAME = "io.nsbroker.Broker"
TEXT = Path(__file__).with_name(f"{NAME}.varlink")

OPEN = f"{NAME}.Open"
OPEN_SOCKET = f"{NAME}.OpenSocket"
LIST_DEVICES = f"{NAME}.ListDevices"
OPEN_DEVICE = f"{NAME}.OpenDevice"
ADD_INTERFACE = f"{NAME}.AddInterface"
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


class ExplainRequest(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The parameters of Explain."""

    target: TargetSpec
    types: list[NamespaceType] | None = None
    sockets: list[str] | None = None
    devices: list[str] | None = None
    marks: list[int] | None = None
    interfaces: list[InterfaceKind] | None = None
    files: list[str] | None = None
    as_: list[str] | None = field(default=None, name="as")


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


class ListDevicesReply(Struct, omit_defaults=True):
    """A reply of ListDevices."""

    devices: list[DeviceDescription]
    names: list[FileDescription] | None = None


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
    """Whether the policy allows one kind of socket, mark, device or kind of interface, and the rule that does."""

    name: str
    allowed: bool
    rule: str | None = None


class RuleVerdict(Struct):
    """How one rule of the policy fits what was asked about, in a reply of Explain."""

    rule: str
    file: str
    who: bool
    target: bool
    ended: bool
    allows: list[str]
    lacks: list[str]


class ExplainReply(Struct, rename="camel", omit_defaults=True):
    """The reply of Explain."""

    target: str
    allowed: bool
    verdicts: list[TypeVerdict]
    sockets: list[PermissionVerdict] | None = None
    devices: list[PermissionVerdict] | None = None
    marks: list[PermissionVerdict] | None = None
    interfaces: list[PermissionVerdict] | None = None
    files: list[PermissionVerdict] | None = None
    container_unknown: str | None = None
    rules: list[RuleVerdict] | None = None
    rules_left_out: int | None = None
    target_unknown: str | None = None


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
    open: list[NamespaceType] | None = None


class WatchReply(Struct, rename="camel", omit_defaults=True):
    """One reply of Watch."""

    event: WatchEvent
    namespace: NamespaceDescription | None = None
    namespace_file_descriptor: int | None = None


class CreateRequest(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The parameters of Create."""

    types: list[NamespaceType]
    name: str | None = None
    up: bool | None = None


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
    marks: list[str] | None = None
    interfaces: list[InterfaceKind] | None = None


class CallDurations(Struct):
    """How long calls took, as a histogram, in a reply of GetStatus."""

    bounds: list[float]
    counts: list[int]
    sum: float


class Status(Struct, rename="camel", omit_defaults=True):
    """The reply of GetStatus."""

    version: str
    features: dict[str, bool]
    rules: int
    loaded: float
    held_durable: bool
    configuration_fault: str | None = None
    connections: int | None = None
    calls: int | None = None
    file_descriptors: int | None = None
    held: int | None = None
    reload_fault: str | None = None
    calls_by_method: dict[str, int] | None = None
    verdicts: dict[str, int] | None = None
    waiting_calls: CallDurations | None = None
    limits_reached: dict[str, int] | None = None
