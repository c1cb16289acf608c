"""What the fronts share: for each method the call, its fds and how to read the answer; and the steps of a connection."""

import contextlib
import os
import select
import socket
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from nsbroker import interface
from nsbroker.errors import (
    WIRE_ERRORS,
    BrokerError,
    ConnectionFailed,
    ConnectionLost,
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
    ExpectationSpec,
    ExplainReply,
    ExplainRequest,
    HeldDescription,
    HoldReply,
    HoldRequest,
    ListContainersReply,
    ListHeldReply,
    OpenedNamespace,
    OpenReply,
    OpenRequest,
    PeerDescription,
    ReleaseRequest,
    Status,
    TargetSpec,
    UnavailableEngine,
    WhoAmIReply,
)
from nsbroker.linux import ancillary
from nsbroker.linux.ancillary import close_all
from nsbroker.namespace import Namespace
from nsbroker.target import Kind, Target
from nsbroker.varlink import service
from nsbroker.varlink.connection import ClientConnection, IncomingReply
from nsbroker.varlink.framing import END, MESSAGE_MAX

T = TypeVar("T")
R = TypeVar("R", bound=Struct)

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


def explain(where: Where, types: Iterable[str] | None) -> Request[ExplainReply]:
    """What the policy says to opening `types` of the target."""
    target = _target(where)
    kinds = None if types is None else [NamespaceType.parse(kind) for kind in types]
    request = ExplainRequest(TargetSpec.of(target), kinds)
    return Request(interface.EXPLAIN, request, _fds(target), _explanation, "explain", target)


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


def connect_failed(path: Path, error: OSError) -> ConnectionFailed:
    """What to raise when there is no connection to be had."""
    match error:
        case FileNotFoundError() | ConnectionRefusedError():
            hint = "is the daemon running? (`nsbroker serve`, as root)"
        case PermissionError():
            hint = "the socket or a folder above it is not open to you"
        case _:
            hint = "it does not answer"
    return ConnectionFailed(f"no broker at {path}: {error.strerror or error}: {hint}")


class NotTaken(ConnectionLost):
    """The broker hung up, and has read nothing of the call: it may be made again on another connection."""


class Wire:
    """One front's connection: its socket, and the steps of a call, which a front repeats until they are done.

    `sock` is taken.  Each step does what can be done at once; the socket's own mode says whether it waits.  A connection
    that is over is replaced for the next call, until the wire is closed for good.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.closed = False
        self._connection = ClientConnection()
        self._buffer = memoryview(bytearray(MESSAGE_MAX + len(END)))
        self._rest = memoryview(b"")
        self._fds: Sequence[int] = ()
        self._replies: list[IncomingReply] = []
        self._refused = False

    def is_over(self, request: Request[T]) -> bool:
        """Whether the broker has ended the connection since the last call.  Raises ConnectionLost on a closed wire."""
        if self.closed:
            raise ConnectionLost(f"{request.what()}: this connection is closed; connect again")
        if self.sock.fileno() < 0:
            return True
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        if not poll.poll(0):
            return False
        try:
            return not self.sock.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def replace(self, sock: socket.socket) -> None:
        """Go on with another connection (taken)."""
        self.drop()
        self.sock = sock
        self._connection = ClientConnection()

    def start(self, request: Request[T]) -> None:
        """Begin a call."""
        self._refused = False
        self._rest = memoryview(self._connection.call(request.method, request.parameters, more=request.more))
        self._fds = request.fds
        self._replies = []

    def send_some(self) -> bool:
        """Send what there is room for; whether all of it went.  Raises BlockingIOError when there is no room."""
        try:
            self._rest = self._rest[ancillary.send(self.sock, self._rest, self._fds) :]
        except BrokenPipeError:
            # A broker that is full has answered and hung up already: then the answer is still to be read.
            self._refused = True
            return True
        self._fds = ()
        return not self._rest

    def receive_some(self, request: Request[T]) -> Sequence[IncomingReply] | None:
        """Receive what is there; the replies when the last is whole.

        Raises ConnectionLost, ProtocolError, BlockingIOError, OSError.
        """
        try:
            # One call is under way at a time, so all fds that come are of its reply: nothing else could be glued to it.
            count, fds = ancillary.receive_into(self.sock, self._buffer)
        except ConnectionResetError:
            count, fds = 0, []
        if not count:
            if self._refused:
                raise NotTaken(f"{request.what()}: the broker hung up before it read the call")
            raise ConnectionLost(
                f"{request.what()}: the broker hung up before it answered (restarted, or the call broke the protocol); try again"
            )
        self._connection.receive(bytes(self._buffer[:count]), fds)
        while (reply := self._connection.next_reply()) is not None:
            self._replies.append(reply)
            if reply.last:
                return self._replies
        return None

    def close(self) -> None:
        """End the connection for good.  Twice is harmless."""
        self.closed = True
        self.drop()

    def drop(self) -> None:
        """End the connection; another may take its place.  Twice is harmless."""
        for reply in self._replies:
            reply.close()
        self._connection.close()
        # Wakes a thread that waits on it, which closing alone does not.
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


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
_held = msgspec.json.Decoder(ListHeldReply)
_create_replies = msgspec.json.Decoder(CreateReply)
_hold = _reader(HoldReply)
_open_replies = msgspec.json.Decoder(OpenReply)
_explanation = _reader(ExplainReply)
_who = _reader(WhoAmIReply)
_status = _reader(Status)


def _read_containers(replies: Sequence[IncomingReply]) -> ContainerList:
    answers = [_decode(_containers, reply) for reply in replies]
    return ContainerList(
        [answer.container for answer in answers if answer.container is not None],
        [answer.unavailable for answer in answers if answer.unavailable is not None],
    )


def _read_held(replies: Sequence[IncomingReply]) -> list[HeldDescription]:
    answers = [_decode(_held, reply) for reply in replies]
    return [answer.held for answer in answers if answer.held is not None]


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
        return PermissionDenied(request.what())
    try:
        fields = msgspec.json.decode(reply.parameters, type=dict[str, object])
        return kind(*(fields[field] for field in kind.fields))
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        return ProtocolError(f"{request.what()}: the broker's error {reply.error} lacks its parameters: {error}")
