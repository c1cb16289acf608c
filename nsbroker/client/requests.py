"""The calls that a client can make: for each method the message, its fds, and how to read the replies.

Each function builds the `Request` of one method.  It raises InvalidTarget or InvalidType if the arguments are wrong.
"""

import functools
import io
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from nsbroker.client import events, results
from nsbroker.client.events import Event
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
from nsbroker.model.device_access import DeviceAccess
from nsbroker.model.identity import Expectation, NamespaceType
from nsbroker.model.interface import InterfaceKind
from nsbroker.model.socket_kind import SocketKind
from nsbroker.model.target import Target, TargetKind
from nsbroker.namespace import Namespace
from nsbroker.protocol import messages
from nsbroker.protocol.messages import (
    ContainerDescription,
    ExplainReply,
    ExplainRequest,
    ListDevicesRequest,
    ListRequest,
    OpenDeviceRequest,
    OpenRequest,
    OpenSocketRequest,
    PeerDescription,
    RestrictRequest,
    SocketAddress,
    Status,
    UnavailableEngine,
    WatchRequest,
)
from nsbroker.protocol.target_spec import ExpectationSpec, TargetSpec
from nsbroker.varlink import service
from nsbroker.varlink.connection import IncomingReply

T = TypeVar("T")

_ROOT_IS_NOBODY = "before Linux 6.5 the broker cannot tell root from the root of a container: only rules for everyone apply"
# The broker always opens devices with O_NOCTTY, and every descriptor is close-on-exec.
_HONOURED = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
# How many targets are remembered as they were parsed, and how many requests.
_REMEMBERED_MAX = 512
TargetLike = str | Target
"""A target, as a string or parsed."""

_fields = msgspec.json.Decoder(dict[str, object])


class Request(NamedTuple, Generic[T]):
    """A call to make.

    `fds` are sent with it; they are borrowed until it is sent.  `read` makes the result from the replies: from one, or with
    `more` from any number.  It removes the fds that the result owns from the list of the reply.
    """

    method: str
    parameters: Struct
    fds: Sequence[int]
    read: Callable[[Sequence[IncomingReply]], T]
    action: str
    target: Target | None = None
    types: Sequence[str] = ()
    more: bool = False
    permission: str = ""
    """What a rule would have to allow, if that is not `types`; for errors."""
    most_fds: int = 0
    """The most fds that the reply may have.  If that is 0, fds that arrive are closed."""
    restricts: bool = False
    """Whether it restricts the connection.  Then it is made on every further connection of the client, too."""
    held_as: str | None = None
    """The name under which the broker holds the namespaces afterwards, if it does; for errors."""

    def what(self) -> str:
        """Return the call in words, for errors."""
        types = f" {', '.join(self.types)}" if self.types else ""
        target = "" if self.target is None else f"{' of' if types else ''} {target_text(self.target)}"
        name = "" if self.held_as is None else f" as name:{self.held_as}"
        return f"{self.action}{types}{target}{name}"


def open_namespaces(
    where: TargetLike, types: Iterable[str] | None, expect: Expectation | None = None
) -> Request[dict[NamespaceType, Namespace]]:
    """Open `types` (None: every type it has) of the target; the caller owns the handles."""
    target = parse_target(where)
    ns_types = None if types is None else tuple(map(NamespaceType.parse, _check_list(types, "net")))
    if expect is not None or target.kind is TargetKind.PIDFD:
        return _open_namespaces(target, ns_types, expect)
    return _open_again(target, ns_types)


def _open_namespaces(
    target: Target, ns_types: tuple[NamespaceType, ...] | None, expect: Expectation | None = None
) -> Request[dict[NamespaceType, Namespace]]:
    types = None if ns_types is None else list(ns_types)
    request = OpenRequest(TargetSpec.of(target), types, None if expect is None else ExpectationSpec.of(expect))
    return Request(
        messages.OPEN, request, target_fds(target), lambda replies: results.opened(replies[0], ns_types), "open", target,
        ns_types or (), most_fds=len(NamespaceType if ns_types is None else ns_types),
    )  # fmt: skip


# Programs open the same targets again and again.  With a pidfd, the number can be another process the next time.
_open_again = functools.lru_cache(_REMEMBERED_MAX)(_open_namespaces)


def explain(
    where: TargetLike,
    types: Iterable[str] | None,
    sockets: Iterable[str] | None,
    devices: Iterable[str] | None,
    marks: Iterable[int] | None,
    interfaces: Iterable[str] | None,
    files: Iterable[str] | None,
    who: Iterable[str] | None,
) -> Request[ExplainReply]:
    """Ask whether the policy allows these types of namespaces, sockets, devices, marks, interfaces and files of the target."""
    target = parse_target(where)
    ns_types = parse_types(types)
    wanted = None if sockets is None else [str(SocketKind.parse(text)) for text in _check_list(sockets, "inet:stream")]
    names = None if devices is None else list(_check_list(devices, "null"))
    request = ExplainRequest(
        TargetSpec.of(target),
        ns_types,
        wanted,
        names,
        None if marks is None else list(marks),
        None if interfaces is None else _parse_interfaces(interfaces),
        None if files is None else list(_check_list(files, "net/dev")),
        None if who is None else list(_check_list(who, "user:alice")),
    )
    return Request(messages.EXPLAIN, request, target_fds(target), results.explanation, "explain", target)


def open_socket(
    where: TargetLike, family: int, kind: int, protocol: int, bind: tuple[str, int] | None, mark: int | None
) -> Request[socket.socket]:
    """Open a socket in the network namespace of the target; the caller owns it."""
    target = parse_target(where)
    wanted = SocketKind.of_numbers(family, kind, bind[1] if bind else 0)
    address = None if bind is None else SocketAddress(*bind)
    request = OpenSocketRequest(TargetSpec.of(target), wanted.family, wanted.type, protocol or None, address, mark)
    marked = "" if mark is None else f", marks {mark:#x}"
    return Request(
        messages.OPEN_SOCKET,
        request,
        target_fds(target),
        lambda replies: results.opened_socket(replies, wanted),
        f"open a socket {wanted} in",
        target,
        permission=f"sockets {wanted}{marked}",
        most_fds=1,
    )


def list_devices(where: TargetLike, read: Callable[[Sequence[IncomingReply]], T]) -> Request[T]:
    """List what is below the target's /dev.  `read` is `results.devices` or `results.device_names`."""
    target = parse_target(where)
    request = ListDevicesRequest(TargetSpec.of(target))
    fds, what = target_fds(target), "list the devices of"
    return Request(messages.LIST_DEVICES, request, fds, read, what, target, permission="devices", more=True)


def open_device(where: TargetLike, name: str, flags: int) -> Request[io.FileIO]:
    """Open a device below the target's /dev; the caller owns the file."""
    target, access = parse_target(where), _parse_access(flags)
    non_blocking = flags & os.O_NONBLOCK
    request = OpenDeviceRequest(TargetSpec.of(target), name, access, True if non_blocking else None)
    mode = {DeviceAccess.READ: "rb", DeviceAccess.WRITE: "wb", DeviceAccess.READ_WRITE: "r+b"}[access]
    return Request(
        messages.OPEN_DEVICE,
        request,
        target_fds(target),
        lambda replies: results.opened_device(replies, mode, access.flags | non_blocking),
        f"open the device {name} of",
        target,
        permission=f"the device {name}",
        most_fds=1,
    )


def _parse_access(flags: int) -> DeviceAccess:
    """Return the access mode in `flags` of open(2).  Raises ValueError for what cannot be honoured, with its name."""
    refused = flags & ~(os.O_ACCMODE | _HONOURED)
    if refused:
        names = [name for name in dir(os) if name.startswith("O_") and 0 < getattr(os, name) == refused & getattr(os, name)]
        raise ValueError(
            f"cannot open a device with {' | '.join(names) or hex(refused)}: only O_NONBLOCK and O_NOCTTY are possible besides the "
            "access mode"
        )
    return DeviceAccess.of_flags(flags)


def list_namespaces(types: Iterable[str] | None, where: TargetLike | None) -> Request[list[NamespaceDescription]]:
    """List the namespaces that the caller may open; only those of the target, if there is one."""
    target = None if where is None else parse_target(where)
    ns_types = parse_types(types)
    request = ListRequest(ns_types, None if target is None else TargetSpec.of(target))
    fds = () if target is None else target_fds(target)
    what = "list namespaces" if target is None else "list the namespaces of"
    return Request(messages.LIST, request, fds, results.namespace_list, what, target, more=True)


def watch(types: Iterable[str] | None, opened: Iterable[str] | None) -> Request[None]:
    """Watch namespaces, and open those of the types `opened`; `read_event` reads each reply."""
    ns_types, open_types = parse_types(types), None if opened is None else parse_types(opened)
    if ns_types is not None and not set(open_types or ()) <= set(ns_types):
        raise InvalidType("watch opens only namespaces of the types that it watches: name them in `types`, too")
    request = WatchRequest(ns_types, open_types)
    return Request(messages.WATCH, request, (), lambda _: None, "watch namespaces", more=True, most_fds=1 if open_types else 0)


def read_event(request: Request[None], reply: IncomingReply) -> Event:
    """Return the event in one reply (taken) of a watch.  Raises the broker's error, as its class in `nsbroker.errors`."""
    try:
        if reply.error is not None:
            raise _reply_error(request, reply)
        return events.read(reply)
    finally:
        reply.close()


def restrict(
    targets: Iterable[str],
    namespaces: Iterable[str],
    sockets: Iterable[str],
    devices: Iterable[str],
    files: Iterable[str],
    create: Iterable[str],
    hold: Iterable[str],
    marks: Iterable[str],
    interfaces: Iterable[str],
) -> Request[None]:
    """Restrict the connection to these permissions for these targets; "*" means all."""
    request = RestrictRequest(
        list(_check_list(targets, "docker:web")),
        _expand_types(namespaces),
        list(_check_list(sockets, "inet:stream")),
        list(_check_list(devices, "null")),
        list(_check_list(files, "net/dev")),
        _expand_types(create),
        _expand_types(hold),
        list(_check_list(marks, "0x100")),
        _parse_interfaces(interfaces),
    )
    return Request(messages.RESTRICT, request, (), lambda _: None, "restrict the connection", restricts=True)


def who_am_i() -> Request[PeerDescription]:
    """Ask who the caller is, as the broker sees it."""
    return Request(messages.WHO_AM_I, service.Nothing(), (), lambda replies: results.who(replies).peer, "ask who I am")


def status() -> Request[Status]:
    """Ask for the state of the broker."""
    return Request(messages.GET_STATUS, service.Nothing(), (), results.status, "ask for the status")


class ContainerList(NamedTuple):
    """The containers of which this process may open a namespace, and the engines that could not be asked."""

    containers: list[ContainerDescription]
    unavailable: list[UnavailableEngine]


def list_containers() -> Request[ContainerList]:
    """List the containers of which the caller may open a namespace."""

    def read(replies: Sequence[IncomingReply]) -> ContainerList:
        return ContainerList(*results.containers(replies))

    return Request(messages.LIST_CONTAINERS, service.Nothing(), (), read, "list the containers", more=True)


def finish(request: Request[T], replies: Sequence[IncomingReply]) -> T:
    """Return the result of `request`, which removes the fds that it owns from the lists of the replies.

    Raises the broker's error, as its class in `nsbroker.errors`.
    """
    if replies[-1].error is not None:
        raise _reply_error(request, replies[-1])
    return request.read(replies)


def parse_target(where: TargetLike) -> Target:
    """Return `where` parsed.  Raises InvalidTarget."""
    if isinstance(where, Target):
        return where
    # Only text can be remembered, but whatever else was given gets the error of `Target.parse`, too.
    return _parse(where) if isinstance(where, str) else Target.parse(where)


@functools.lru_cache(_REMEMBERED_MAX)
def _parse(text: str) -> Target:
    return Target.parse(text)


def parse_types(types: Iterable[str] | None) -> list[NamespaceType] | None:
    """Return `types` parsed; None stays None.  Raises InvalidType."""
    return None if types is None else [NamespaceType.parse(text) for text in _check_list(types, "net")]


def check_targets(targets: Iterable[TargetLike]) -> Iterable[TargetLike]:
    """Return `targets`.  Raises InvalidTarget if they are a single text, which is iterable, too."""
    if isinstance(targets, str):
        raise InvalidTarget(f"{targets[:80]!r} is text where a list is expected: write [{targets[:80]!r}]")
    return targets


def _expand_types(types: Iterable[str]) -> list[NamespaceType]:
    """Return the types; "*" stands for all of them, as in rules."""
    words = list(_check_list(types, "net"))
    return list(NamespaceType) if "*" in words else list(map(NamespaceType.parse, words))


def _parse_interfaces(kinds: Iterable[str]) -> list[InterfaceKind]:
    """Return the kinds of interfaces; "*" stands for all of them, as in rules.  Raises InvalidType."""
    words = list(_check_list(kinds, "veth"))
    for word in words:
        if word not in ("*", *InterfaceKind):
            raise InvalidType(f"{word!r} is no kind of interface: use one of {', '.join(InterfaceKind)}")
    return list(InterfaceKind) if "*" in words else list(map(InterfaceKind, words))


def _check_list(words: Iterable[str], example: str) -> Iterable[str]:
    # A str is iterable, too, and the error would be about its first letter.
    if isinstance(words, str):
        raise InvalidType(f"{words[:80]!r} is text where a list is expected: write [{example!r}]")
    return words


def target_text(target: Target) -> str:
    """Return `target` in words, for errors."""
    return "the process of a pidfd" if target.kind is TargetKind.PIDFD else str(target)


def target_fds(target: Target) -> Sequence[int]:
    """Return the fds (borrowed) that are sent with `target`: its pidfd, if it is one.  Raises InvalidTarget."""
    if target.kind is not TargetKind.PIDFD:
        return ()
    fd = int(target.value)
    try:
        os.fstat(fd)
    except OSError as error:
        raise InvalidTarget(f"the pidfd {fd} is not open") from error
    return (fd,)


def _reply_error(request: Request[T], reply: IncomingReply) -> NsbrokerError:
    kind = WIRE_ERRORS.get(reply.error or "")
    if kind is None:
        return ProtocolError(f"{request.what()}: the broker replied with an unknown error {reply.error!r}")
    if kind is PermissionDenied:
        if os.geteuid() == 0 and not features().peer_pidfd:
            return PermissionDenied(request.what(), _ROOT_IS_NOBODY)
        if request.permission:
            why = f"no rule of the broker's policy lets you have {request.permission} there, this connection is restricted, or the "
            why += "kernel does not permit it"
            return PermissionDenied(request.what(), why)
        return PermissionDenied(request.what())
    try:
        fields = _fields.decode(reply.parameters)
        return kind(*(_convert_field(name, fields[name]) for name in kind.fields))
    except (*results.NONSENSE, KeyError) as error:
        return ProtocolError(f"{request.what()}: the broker's error {reply.error} lacks its parameters: {error}")


def _convert_field(name: str, value: object) -> object:
    """Return a parameter of an error: a list of texts for `candidates`, else a text.  Raises ValidationError."""
    return msgspec.convert(value, list[str] if name == "candidates" else str)
