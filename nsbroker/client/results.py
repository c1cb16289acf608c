"""What answers mean: reading their parameters, and making handles, sockets and files of the fds that came with them.

A signal handler can raise an exception anywhere (KeyboardInterrupt is one), and each fd must have one owner all the
same.  So an fd is in the list of the reply until an object has it, and the object is made, empty, before it takes the fd.
"""

import fcntl
import io
import os
import socket
import stat
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec
from msgspec import Struct

from nsbroker.errors import BrokerError, NotANamespace, ProtocolError
from nsbroker.model.description import NamespaceDescription
from nsbroker.model.identity import NamespaceType
from nsbroker.model.socket_kind import SocketKind
from nsbroker.namespace import Namespace
from nsbroker.protocol.messages import (
    ContainerDescription,
    CreateReply,
    ExplainReply,
    HeldDescription,
    HoldReply,
    ListContainersReply,
    ListDevicesReply,
    ListHeldReply,
    ListReply,
    OpenDeviceReply,
    OpenedNamespace,
    OpenReply,
    OpenSocketReply,
    Status,
    UnavailableEngine,
    WatchReply,
    WhoAmIReply,
)
from nsbroker.varlink.connection import IncomingReply

R = TypeVar("R", bound=Struct)

NONSENSE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What reading JSON raises that is not what it should be."""
_DOES_NOT_FIT = "the broker's answer does not fit the file descriptors that came with it"


def _decode(decoder: msgspec.json.Decoder[R], reply: IncomingReply) -> R:
    try:
        return decoder.decode(reply.parameters)
    except NONSENSE as error:
        raise ProtocolError(f"the broker's answer makes no sense: {error}") from error


def _reader(kind: type[R]) -> Callable[[Sequence[IncomingReply]], R]:
    decoder = msgspec.json.Decoder(kind)
    return lambda replies: _decode(decoder, replies[0])


explanation = _reader(ExplainReply)
hold = _reader(HoldReply)
who = _reader(WhoAmIReply)
status = _reader(Status)
devices = _reader(ListDevicesReply)
_opened_socket = _reader(OpenSocketReply)
_opened_device = _reader(OpenDeviceReply)
_opened = msgspec.json.Decoder(OpenReply)
_created = msgspec.json.Decoder(CreateReply)
_containers = msgspec.json.Decoder(ListContainersReply)
_namespaces = msgspec.json.Decoder(ListReply)
_events = msgspec.json.Decoder(WatchReply)
_held = msgspec.json.Decoder(ListHeldReply)


def event(reply: IncomingReply) -> WatchReply:
    """What one reply of a watch says."""
    return _decode(_events, reply)


def containers(replies: Sequence[IncomingReply]) -> tuple[list[ContainerDescription], list[UnavailableEngine]]:
    """The containers, and the engines that could not be asked."""
    answers = [_decode(_containers, reply) for reply in replies]
    return (
        [answer.container for answer in answers if answer.container is not None],
        [answer.unavailable for answer in answers if answer.unavailable is not None],
    )


def namespace_list(replies: Sequence[IncomingReply]) -> list[NamespaceDescription]:
    """The namespaces that there are."""
    answers = [_decode(_namespaces, reply) for reply in replies]
    return [answer.namespace for answer in answers if answer.namespace is not None]


def held(replies: Sequence[IncomingReply]) -> list[HeldDescription]:
    """What is held."""
    answers = [_decode(_held, reply) for reply in replies]
    return [answer.held for answer in answers if answer.held is not None]


def opened(reply: IncomingReply, kinds: Sequence[NamespaceType] | None) -> dict[NamespaceType, Namespace]:
    """The handles of what was opened: of `kinds`, if it is known which these are."""
    return _take_namespaces(reply, _decode(_opened, reply).namespaces, kinds)


def created(reply: IncomingReply, kinds: Sequence[NamespaceType]) -> tuple[dict[NamespaceType, Namespace], bool]:
    """The handles of what was made, and whether it outlives a restart of the broker."""
    answer = _decode(_created, reply)
    return _take_namespaces(reply, answer.namespaces, kinds), answer.durable


def _take_namespaces(
    reply: IncomingReply, said: Sequence[OpenedNamespace], kinds: Sequence[NamespaceType] | None
) -> dict[NamespaceType, Namespace]:
    fds = _arranged(reply, [space.namespace_file_descriptor for space in said])
    taken: list[Namespace] = []
    try:
        # Type and identity are read from each descriptor, whatever the answer says.
        while fds:
            taken.append(_take_namespace(fds))
        spaces = {space.type: space for space in taken}
        if len(spaces) < len(taken) or (kinds is not None and spaces.keys() != set(kinds)):
            names = ", ".join(space.type for space in taken)
            raise ProtocolError(f"the broker opened {names} where {', '.join(kinds or ['each type once'])} was asked for")
    except BaseException:
        for space in taken:
            space.close()
        raise
    return spaces


def _take_namespace(fds: list[int]) -> Namespace:
    try:
        return Namespace.take(fds)
    except NotANamespace as error:
        raise ProtocolError(f"the broker sent {error.reason}") from error
    except OSError as error:
        # One opened with O_PATH, say.
        raise ProtocolError("the broker sent a descriptor that is of no use") from error


def opened_socket(replies: Sequence[IncomingReply], wanted: SocketKind) -> socket.socket:
    """The socket that was made."""
    fds = _arranged(replies[0], [_opened_socket(replies).socket_file_descriptor])
    if not stat.S_ISSOCK(os.fstat(fds[0]).st_mode):
        raise ProtocolError("the broker sent something that is no socket")
    sock = _take_socket(fds)
    try:
        if (sock.family, sock.type) != (wanted.family.number, wanted.type.number):
            raise ProtocolError(f"the broker sent a socket of another kind than {wanted}")
    except BaseException:
        sock.close()
        raise
    return sock


def _take_socket(fds: list[int]) -> socket.socket:
    sock = socket.socket.__new__(socket.socket)
    try:
        # Family, type and protocol are read from the descriptor.
        socket.socket.__init__(sock, fileno=fds[0])
        fds.clear()
    except BaseException as error:
        if sock.fileno() >= 0:
            fds.clear()
            os.close(sock.detach())
        if isinstance(error, OSError) and error.errno is not None:
            raise ProtocolError("the broker sent a socket that is of no use") from error
        raise
    return sock


def opened_device(replies: Sequence[IncomingReply], mode: str, access: int) -> io.FileIO:
    """The device that was opened, for `access` (O_RDONLY, O_WRONLY or O_RDWR)."""
    fds = _arranged(replies[0], [_opened_device(replies).device_file_descriptor])
    if not stat.S_ISCHR(os.fstat(fds[0]).st_mode):
        raise ProtocolError("the broker sent something that is no character device")
    if fcntl.fcntl(fds[0], fcntl.F_GETFL) & (os.O_ACCMODE | os.O_PATH) != access:
        raise ProtocolError("the broker sent a device that is open for something else than was asked for")
    return _take_file(fds, mode)


def _take_file(fds: list[int], mode: str) -> io.FileIO:
    file = io.FileIO.__new__(io.FileIO)
    try:
        io.FileIO.__init__(file, fds[0], mode)
        fds.clear()
    except BaseException:
        if not file.closed:
            fds.clear()
            file.close()
        raise
    return file


def _arranged(reply: IncomingReply, indices: Sequence[int]) -> list[int]:
    """The reply's own list of fds, in the order of `indices`: what is taken out of it is the taker's."""
    try:
        reply.arrange_fds({str(place): index for place, index in enumerate(indices)})
    except BrokerError as error:
        raise ProtocolError(_DOES_NOT_FIT) from error
    return reply.fds
