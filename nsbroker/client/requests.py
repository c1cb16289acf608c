"""What the fronts ask: for each method the call, its fds, and how to read the answer."""

import io
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from nsbroker.client import results
from nsbroker.errors import (
    WIRE_ERRORS,
    InvalidTarget,
    InvalidType,
    NsbrokerError,
    PermissionDenied,
    ProtocolError,
)
from nsbroker.linux.features import features
from nsbroker.model.description import NamespaceDescription
from nsbroker.model.identity import Expectation, NamespaceType
from nsbroker.model.socket_kind import SocketKind
from nsbroker.model.target import Kind, Target
from nsbroker.namespace import Namespace
from nsbroker.protocol import messages
from nsbroker.protocol.messages import (
    ContainerDescription,
    CreateRequest,
    DeviceAccess,
    DeviceDescription,
    ExpectationSpec,
    ExplainReply,
    ExplainRequest,
    HeldDescription,
    HoldRequest,
    ListDevicesRequest,
    ListRequest,
    OpenDeviceRequest,
    OpenRequest,
    OpenSocketRequest,
    PeerDescription,
    ReleaseRequest,
    SocketAddress,
    Status,
    TargetSpec,
    UnavailableEngine,
    WatchReply,
    WatchRequest,
)
from nsbroker.varlink import service
from nsbroker.varlink.connection import IncomingReply

T = TypeVar("T")

_ROOT_IS_NOBODY = "before Linux 6.5 the broker cannot tell root from the root of a container: only rules for everyone fit"
Where = str | Target
"""A target, as a string or parsed."""

_fields = msgspec.json.Decoder(dict[str, object])


class Request(NamedTuple, Generic[T]):
    """One call to make: `fds` are borrowed until it is sent, `read` makes the result of the replies: of one, or with `more`
    of any number.  What the result owns it takes out of the reply's list of fds.
    """

    method: str
    parameters: Struct
    fds: Sequence[int]
    read: Callable[[Sequence[IncomingReply]], T]
    verb: str
    target: Target | None = None
    types: Sequence[str] = ()
    more: bool = False
    lacks: str = ""
    """What a rule would have to allow, where that is not `types`."""
    takes_fds: bool = False
    """Whether fds belong to the answer: any others are closed as they come."""

    def what(self) -> str:
        """The call in words, for errors."""
        types = f" {', '.join(self.types)} of" if self.types else ""
        target = "" if self.target is None else f" {_said(self.target)}"
        return f"{self.verb}{types}{target}"


def open_namespaces(
    where: Where, types: Iterable[str] | None, expect: Expectation | None = None
) -> Request[dict[NamespaceType, Namespace]]:
    """Open `types` (None: all there are) of the target; the caller owns the handles."""
    target = _target(where)
    kinds = _kinds(types)
    request = OpenRequest(TargetSpec.of(target), kinds, None if expect is None else ExpectationSpec.of(expect))
    return Request(
        messages.OPEN, request, _fds(target), lambda replies: results.opened(replies[0], kinds), "open", target, kinds or (),
        takes_fds=True,
    )  # fmt: skip


def explain(
    where: Where, types: Iterable[str] | None, sockets: Iterable[str] | None, devices: Iterable[str] | None
) -> Request[ExplainReply]:
    """What the policy says to opening these of the target."""
    target = _target(where)
    kinds = _kinds(types)
    wanted = None if sockets is None else [str(SocketKind.parse(text)) for text in _several(sockets, "inet:stream")]
    names = None if devices is None else list(_several(devices, "null"))
    request = ExplainRequest(TargetSpec.of(target), kinds, wanted, names)
    return Request(messages.EXPLAIN, request, _fds(target), results.explanation, "explain", target)


def open_socket(where: Where, family: int, kind: int, protocol: int, bind: tuple[str, int] | None) -> Request[socket.socket]:
    """Make a socket inside the target; the caller owns it."""
    target = _target(where)
    wanted = SocketKind.of_numbers(family, kind, bind[1] if bind else 0)
    address = None if bind is None else SocketAddress(*bind)
    request = OpenSocketRequest(TargetSpec.of(target), wanted.family, wanted.type, protocol or None, address)
    return Request(
        messages.OPEN_SOCKET,
        request,
        _fds(target),
        lambda replies: results.opened_socket(replies, wanted),
        f"open a socket {wanted} in",
        target,
        lacks=f"sockets {wanted}",
        takes_fds=True,
    )


def list_devices(where: Where) -> Request[list[DeviceDescription]]:
    """The devices below the target's /dev."""
    target = _target(where)
    request = ListDevicesRequest(TargetSpec.of(target))
    return Request(
        messages.LIST_DEVICES,
        request,
        _fds(target),
        lambda replies: results.devices(replies).devices,
        "list the devices of",
        target,
        lacks="devices",
    )


def open_device(where: Where, name: str, flags: int) -> Request[io.FileIO]:
    """Open a device below the target's /dev; the caller owns the file."""
    target, access = _target(where), DeviceAccess.of_flags(flags)
    request = OpenDeviceRequest(TargetSpec.of(target), name, access)
    mode = {DeviceAccess.READ: "rb", DeviceAccess.WRITE: "wb", DeviceAccess.READ_WRITE: "r+b"}[access]
    return Request(
        messages.OPEN_DEVICE,
        request,
        _fds(target),
        lambda replies: results.opened_device(replies, mode, access.flags),
        f"open the device {name} of",
        target,
        lacks=f"the device {name}",
        takes_fds=True,
    )


def list_namespaces(types: Iterable[str] | None, where: Where | None) -> Request[list[NamespaceDescription]]:
    """The namespaces that there are, of the target if one is given."""
    target = None if where is None else _target(where)
    kinds = _kinds(types)
    request = ListRequest(kinds, None if target is None else TargetSpec.of(target))
    fds = () if target is None else _fds(target)
    what = "list namespaces" if target is None else "list the namespaces of"
    return Request(messages.LIST, request, fds, results.namespace_list, what, target, more=True)


def watch(types: Iterable[str] | None) -> Request[None]:
    """What becomes of namespaces; each reply is read by `read_event`."""
    kinds = _kinds(types)
    return Request(messages.WATCH, WatchRequest(kinds), (), lambda _: None, "watch namespaces", more=True)


def read_event(request: Request[None], reply: IncomingReply) -> WatchReply:
    """What one reply of a watch (taken) says.  Raises the broker's error, as the class that stands for it."""
    try:
        if reply.error is not None:
            raise _error(request, reply)
        return results.event(reply)
    finally:
        reply.close()


class Created(NamedTuple):
    """New namespaces (the handles are the caller's).  `durable`: what is held of them outlives a restart of the broker."""

    namespaces: dict[NamespaceType, Namespace]
    durable: bool


def create(types: Iterable[str], name: str | None) -> Request[Created]:
    """Make namespaces, and hold them under `name`."""
    kinds = _kinds(types) or []
    request = CreateRequest(kinds, name)

    def read(replies: Sequence[IncomingReply]) -> Created:
        return Created(*results.created(replies[0], kinds))

    verb = "create" if name is None else f"create name:{name} of"
    return Request(messages.CREATE, request, (), read, verb, types=kinds, takes_fds=True)


def hold(where: Where, types: Iterable[str] | None, name: str) -> Request[bool]:
    """Hold `types` (None: all there are) of the target under `name`."""
    target = _target(where)
    kinds = _kinds(types)
    request = HoldRequest(target=TargetSpec.of(target), types=kinds, name=name)
    verb = f"hold as name:{name}"
    return Request(messages.HOLD, request, _fds(target), lambda replies: results.hold(replies).durable, verb, target, kinds or ())


def release(name: str) -> Request[None]:
    """Let go of what is held under `name`."""
    return Request(messages.RELEASE, ReleaseRequest(name), (), lambda _: None, f"release name:{name}")


def list_held() -> Request[list[HeldDescription]]:
    """What is held."""
    return Request(messages.LIST_HELD, service.Nothing(), (), results.held, "list what is held", more=True)


def who_am_i() -> Request[PeerDescription]:
    """Who the broker takes us for."""
    return Request(messages.WHO_AM_I, service.Nothing(), (), lambda replies: results.who(replies).peer, "ask who I am")


def status() -> Request[Status]:
    """How the broker is doing."""
    return Request(messages.GET_STATUS, service.Nothing(), (), results.status, "ask for the status")


class ContainerList(NamedTuple):
    """The containers of which this process may have something opened, and the engines that could not be asked."""

    containers: list[ContainerDescription]
    unavailable: list[UnavailableEngine]


def list_containers() -> Request[ContainerList]:
    """What is there."""

    def read(replies: Sequence[IncomingReply]) -> ContainerList:
        return ContainerList(*results.containers(replies))

    return Request(messages.LIST_CONTAINERS, service.Nothing(), (), read, "list the containers", more=True)


def finish(request: Request[T], replies: Sequence[IncomingReply]) -> T:
    """The result of `request`, which takes its fds out of the lists of the replies.  Raises the broker's error, as the class
    that stands for it.
    """
    if replies[-1].error is not None:
        raise _error(request, replies[-1])
    return request.read(replies)


def _target(where: Where) -> Target:
    if isinstance(where, Target):
        return where
    if not isinstance(where, str):
        raise InvalidTarget(f"{where!r} is no target: a target is text such as 'pid:4711', or a Target")
    return Target.parse(where)


def _kinds(types: Iterable[str] | None) -> list[NamespaceType] | None:
    return None if types is None else [NamespaceType.parse(kind) for kind in _several(types, "net")]


def _several(words: Iterable[str], example: str) -> Iterable[str]:
    # Text is iterable, too: its letters would be refused one by one.
    if isinstance(words, str):
        raise InvalidType(f"{words[:80]!r} is text where a list is expected: write [{example!r}]")
    return words


def _said(target: Target) -> str:
    return "the process of a pidfd" if target.kind is Kind.PIDFD else str(target)


def _fds(target: Target) -> Sequence[int]:
    if target.kind is not Kind.PIDFD:
        return ()
    fd = int(target.value)
    try:
        os.fstat(fd)
    except OSError as error:
        raise InvalidTarget(f"the pidfd {fd} is not open") from error
    return (fd,)


def _error(request: Request[T], reply: IncomingReply) -> NsbrokerError:
    kind = WIRE_ERRORS.get(reply.error or "")
    if kind is None:
        return ProtocolError(f"{request.what()}: the broker answers with an unknown error {reply.error!r}")
    if kind is PermissionDenied:
        if os.geteuid() == 0 and not features().peer_pidfd:
            return PermissionDenied(request.what(), _ROOT_IS_NOBODY)
        if request.lacks:
            why = f"no rule of the broker's policy lets you have {request.lacks} there, or the kernel does not"
            return PermissionDenied(request.what(), why)
        return PermissionDenied(request.what())
    try:
        fields = _fields.decode(reply.parameters)
        return kind(*(_field(name, fields[name]) for name in kind.fields))
    except (*results.NONSENSE, KeyError) as error:
        return ProtocolError(f"{request.what()}: the broker's error {reply.error} lacks its parameters: {error}")


def _field(name: str, value: object) -> object:
    """A parameter of an error, all of which are texts but the candidates.  Raises ValidationError."""
    return msgspec.convert(value, list[str] if name == "candidates" else str)
