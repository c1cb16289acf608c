"""What the fronts ask: for each method the call, its fds, and how to read the answer."""

import io
import os
import socket
import stat
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from nsbroker import interface
from nsbroker.description import NamespaceDescription
from nsbroker.errors import (
    WIRE_ERRORS,
    BrokerError,
    InvalidTarget,
    NsbrokerError,
    PermissionDenied,
    ProtocolError,
)
from nsbroker.identity import Expectation, NamespaceType
from nsbroker.interface import (
    ContainerDescription,
    CreateReply,
    CreateRequest,
    DeviceAccess,
    DeviceDescription,
    ExpectationSpec,
    ExplainReply,
    ExplainRequest,
    HeldDescription,
    HoldReply,
    HoldRequest,
    ListContainersReply,
    ListDevicesReply,
    ListDevicesRequest,
    ListHeldReply,
    ListReply,
    ListRequest,
    OpenDeviceReply,
    OpenDeviceRequest,
    OpenedNamespace,
    OpenReply,
    OpenRequest,
    OpenSocketReply,
    OpenSocketRequest,
    PeerDescription,
    ReleaseRequest,
    SocketAddress,
    Status,
    TargetSpec,
    UnavailableEngine,
    WatchReply,
    WatchRequest,
    WhoAmIReply,
)
from nsbroker.linux.ancillary import close_all
from nsbroker.linux.features import features
from nsbroker.namespace import Namespace
from nsbroker.socket_kind import SocketKind
from nsbroker.target import Kind, Target
from nsbroker.varlink import service
from nsbroker.varlink.connection import IncomingReply

T = TypeVar("T")
R = TypeVar("R", bound=Struct)

_ROOT_IS_NOBODY = "before Linux 6.5 the broker cannot tell root from the root of a container: only rules for everyone fit"
Where = str | Target
"""A target, as a string or parsed."""


class Request(NamedTuple, Generic[T]):
    """One call to make: `fds` are borrowed until it is sent, `read` makes the result of the replies (and takes their fds):
    of one, or with `more` of any number.
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
    kinds = None if types is None else [NamespaceType.parse(kind) for kind in types]
    request = OpenRequest(TargetSpec.of(target), kinds, None if expect is None else ExpectationSpec.of(expect))
    return Request(
        interface.OPEN, request, _fds(target), lambda replies: _read_namespaces(replies[0], kinds), "open", target, kinds or ()
    )


def explain(
    where: Where, types: Iterable[str] | None, sockets: Iterable[str] | None, devices: Iterable[str] | None
) -> Request[ExplainReply]:
    """What the policy says to opening these of the target."""
    target = _target(where)
    kinds = None if types is None else [NamespaceType.parse(kind) for kind in types]
    wanted = None if sockets is None else [str(SocketKind.parse(text)) for text in sockets]
    request = ExplainRequest(TargetSpec.of(target), kinds, wanted, None if devices is None else list(devices))
    return Request(interface.EXPLAIN, request, _fds(target), _explanation, "explain", target)


def open_socket(where: Where, family: int, kind: int, protocol: int, bind: tuple[str, int] | None) -> Request[socket.socket]:
    """Make a socket inside the target; the caller owns it."""
    target = _target(where)
    wanted = SocketKind.of_numbers(family, kind, bind[1] if bind else 0)
    address = None if bind is None else SocketAddress(*bind)
    request = OpenSocketRequest(TargetSpec.of(target), wanted.family, wanted.type, protocol or None, address)
    return Request(
        interface.OPEN_SOCKET, request, _fds(target), _read_socket, f"open a socket {wanted} in", target, lacks=f"sockets {wanted}"
    )


def list_devices(where: Where) -> Request[list[DeviceDescription]]:
    """The devices below the target's /dev."""
    target = _target(where)
    request = ListDevicesRequest(TargetSpec.of(target))
    return Request(
        interface.LIST_DEVICES, request, _fds(target), lambda replies: _devices(replies).devices, "list the devices of", target,
        lacks="devices",
    )  # fmt: skip


def open_device(where: Where, name: str, flags: int) -> Request[io.FileIO]:
    """Open a device below the target's /dev; the caller owns the file."""
    target, access = _target(where), DeviceAccess.of_flags(flags)
    request = OpenDeviceRequest(TargetSpec.of(target), name, access)
    mode = {DeviceAccess.READ: "rb", DeviceAccess.WRITE: "wb", DeviceAccess.READ_WRITE: "r+b"}[access]
    return Request(
        interface.OPEN_DEVICE,
        request,
        _fds(target),
        lambda replies: _read_device(replies, mode),
        f"open the device {name} of",
        target,
        lacks=f"the device {name}",
    )


def list_namespaces(types: Iterable[str] | None, where: Where | None) -> Request[list[NamespaceDescription]]:
    """The namespaces that there are, of the target if one is given."""
    target = None if where is None else _target(where)
    kinds = None if types is None else [NamespaceType.parse(kind) for kind in types]
    request = ListRequest(kinds, None if target is None else TargetSpec.of(target))
    fds = () if target is None else _fds(target)
    what = "list namespaces" if target is None else "list the namespaces of"
    return Request(interface.LIST, request, fds, _read_namespace_list, what, target, more=True)


def watch(types: Iterable[str] | None) -> Request[None]:
    """What becomes of namespaces; each reply is read by `read_event`."""
    kinds = None if types is None else [NamespaceType.parse(kind) for kind in types]
    return Request(interface.WATCH, WatchRequest(kinds), (), lambda _: None, "watch namespaces", more=True)


def read_event(request: Request[None], reply: IncomingReply) -> WatchReply:
    """What one reply of a watch (taken) says.  Raises the broker's error, as the class that stands for it."""
    try:
        if reply.error is not None:
            raise _error(request, reply)
        return _decode(_events, reply)
    finally:
        reply.close()


class Created(NamedTuple):
    """New namespaces (the handles are the caller's).  `durable`: what is held of them outlives a restart of the broker."""

    namespaces: dict[NamespaceType, Namespace]
    durable: bool


def create(types: Iterable[str], name: str | None) -> Request[Created]:
    """Make namespaces, and hold them under `name`."""
    kinds = [NamespaceType.parse(kind) for kind in types]
    request = CreateRequest(kinds, name)

    def read(replies: Sequence[IncomingReply]) -> Created:
        answer = _decode(_create_replies, replies[0])
        return Created(_take_namespaces(replies[0], answer.namespaces, kinds), answer.durable)

    return Request(interface.CREATE, request, (), read, "create" if name is None else f"create name:{name} of", types=kinds)


def hold(where: Where, types: Iterable[str] | None, name: str) -> Request[bool]:
    """Hold `types` (None: all there are) of the target under `name`."""
    target = _target(where)
    kinds = None if types is None else [NamespaceType.parse(kind) for kind in types]
    request = HoldRequest(target=TargetSpec.of(target), types=kinds, name=name)
    verb = f"hold as name:{name}"
    return Request(interface.HOLD, request, _fds(target), lambda replies: _hold(replies).durable, verb, target, kinds or ())


def release(name: str) -> Request[None]:
    """Let go of what is held under `name`."""
    return Request(interface.RELEASE, ReleaseRequest(name), (), lambda _: None, f"release name:{name}")


def list_held() -> Request[list[HeldDescription]]:
    """What is held."""
    return Request(interface.LIST_HELD, service.Nothing(), (), _read_held, "list what is held", more=True)


def who_am_i() -> Request[PeerDescription]:
    """Who the broker takes us for."""
    return Request(interface.WHO_AM_I, service.Nothing(), (), lambda replies: _who(replies).peer, "ask who I am")


def status() -> Request[Status]:
    """How the broker is doing."""
    return Request(interface.GET_STATUS, service.Nothing(), (), _status, "ask for the status")


class ContainerList(NamedTuple):
    """The containers of which this process may have something opened, and the engines that could not be asked."""

    containers: list[ContainerDescription]
    unavailable: list[UnavailableEngine]


def list_containers() -> Request[ContainerList]:
    """What is there."""
    return Request(interface.LIST_CONTAINERS, service.Nothing(), (), _read_containers, "list the containers", more=True)


def finish(request: Request[T], replies: Sequence[IncomingReply]) -> T:
    """The result of `request`.  Raises the broker's error, as the class that stands for it."""
    try:
        if replies[-1].error is not None:
            raise _error(request, replies[-1])
        return request.read(replies)
    finally:
        for reply in replies:
            reply.close()


def _target(where: Where) -> Target:
    return where if isinstance(where, Target) else Target.parse(where)


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


def _reader(kind: type[R]) -> Callable[[Sequence[IncomingReply]], R]:
    decoder = msgspec.json.Decoder(kind)
    return lambda replies: _decode(decoder, replies[0])


def _decode(decoder: msgspec.json.Decoder[R], reply: IncomingReply) -> R:
    try:
        return decoder.decode(reply.parameters)
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"the broker's answer makes no sense: {error}") from error


_containers = msgspec.json.Decoder(ListContainersReply)
_namespaces = msgspec.json.Decoder(ListReply)
_events = msgspec.json.Decoder(WatchReply)
_held = msgspec.json.Decoder(ListHeldReply)
_create_replies = msgspec.json.Decoder(CreateReply)
_hold = _reader(HoldReply)
_open_replies = msgspec.json.Decoder(OpenReply)
_explanation = _reader(ExplainReply)
_who = _reader(WhoAmIReply)
_status = _reader(Status)
_opened_socket = _reader(OpenSocketReply)
_devices = _reader(ListDevicesReply)
_opened_device = _reader(OpenDeviceReply)


def _read_containers(replies: Sequence[IncomingReply]) -> ContainerList:
    answers = [_decode(_containers, reply) for reply in replies]
    return ContainerList(
        [answer.container for answer in answers if answer.container is not None],
        [answer.unavailable for answer in answers if answer.unavailable is not None],
    )


def _read_namespace_list(replies: Sequence[IncomingReply]) -> list[NamespaceDescription]:
    answers = [_decode(_namespaces, reply) for reply in replies]
    return [answer.namespace for answer in answers if answer.namespace is not None]


def _read_held(replies: Sequence[IncomingReply]) -> list[HeldDescription]:
    answers = [_decode(_held, reply) for reply in replies]
    return [answer.held for answer in answers if answer.held is not None]


def _read_socket(replies: Sequence[IncomingReply]) -> socket.socket:
    fd = _take_one(replies[0], _opened_socket(replies).socket_file_descriptor)
    try:
        # Family, type and protocol are read from the descriptor.
        return socket.socket(fileno=fd)
    except OSError as error:
        os.close(fd)
        raise ProtocolError("the broker sent something that is no socket") from error


def _read_device(replies: Sequence[IncomingReply], mode: str) -> io.FileIO:
    fd = _take_one(replies[0], _opened_device(replies).device_file_descriptor)
    try:
        if not stat.S_ISCHR(os.fstat(fd).st_mode):
            raise ProtocolError("the broker sent something that is no character device")
        return io.FileIO(fd, mode)
    except BaseException:
        os.close(fd)
        raise


def _take_one(reply: IncomingReply, index: int) -> int:
    try:
        return reply.take_fds({"index": index})[0]
    except BrokerError as error:
        raise ProtocolError("the broker's answer does not fit the file descriptors that came with it") from error


def _read_namespaces(reply: IncomingReply, kinds: list[NamespaceType] | None) -> dict[NamespaceType, Namespace]:
    return _take_namespaces(reply, _decode(_open_replies, reply).namespaces, kinds)


def _take_namespaces(
    reply: IncomingReply, said: Sequence[OpenedNamespace], kinds: list[NamespaceType] | None
) -> dict[NamespaceType, Namespace]:
    try:
        fds = reply.take_fds({space.type: space.namespace_file_descriptor for space in said})
    except BrokerError as error:
        raise ProtocolError("the broker's answer does not fit the file descriptors that came with it") from error
    opened: dict[NamespaceType, Namespace] = {}
    try:
        # Type and identity are read from each descriptor, whatever the answer says.
        while fds:
            space = Namespace(fds[0])
            fds.pop(0)
            opened[space.type] = space
        if kinds is not None and set(opened) != set(kinds):
            raise ProtocolError(f"the broker opened {', '.join(opened)} where {', '.join(kinds)} was asked for")
    except BaseException:
        close_all(fds)
        for space in opened.values():
            space.close()
        raise
    return opened


def _error(request: Request[T], reply: IncomingReply) -> NsbrokerError:
    kind = WIRE_ERRORS.get(reply.error or "")
    if kind is None:
        return ProtocolError(f"{request.what()}: the broker answers with an unknown error {reply.error}")
    if kind is PermissionDenied:
        if os.geteuid() == 0 and not features().peer_pidfd:
            return PermissionDenied(request.what(), _ROOT_IS_NOBODY)
        if request.lacks:
            why = f"no rule of the broker's policy lets you have {request.lacks} there, or the kernel does not"
            return PermissionDenied(request.what(), why)
        return PermissionDenied(request.what())
    try:
        fields = msgspec.json.decode(reply.parameters, type=dict[str, object])
        return kind(*(fields[field] for field in kind.fields))
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        return ProtocolError(f"{request.what()}: the broker's error {reply.error} lacks its parameters: {error}")
