"""Read replies: decode their parameters, and make handles, sockets and files from the fds that arrived with them.

A signal handler can raise an exception at any point (KeyboardInterrupt, for example), and even then each fd must have exactly
one owner.  So an fd stays in the list of the reply until an object has it, and the object is created empty before it takes the
fd.
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

from nsbroker.errors import BrokerError, NoSuchDevice, NotANamespace, ProtocolError
from nsbroker.linux import tun
from nsbroker.model.description import NamespaceDescription
from nsbroker.model.file_description import FileDescription, FileKind
from nsbroker.model.identity import NamespaceType
from nsbroker.model.socket_kind import SocketKind
from nsbroker.namespace import Namespace
from nsbroker.protocol.file_messages import OpenFileReply
from nsbroker.protocol.interface_messages import AddInterfaceReply
from nsbroker.protocol.messages import (
    ContainerDescription,
    CreateReply,
    DeviceDescription,
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
"""The exceptions of decoding JSON that is invalid, or has other types than expected."""
_WRONG_FDS = "the broker's reply does not match the file descriptors that arrived with it"


def _decode(decoder: msgspec.json.Decoder[R], reply: IncomingReply) -> R:
    try:
        return decoder.decode(reply.parameters)
    except NONSENSE as error:
        raise ProtocolError(f"the broker's reply makes no sense: {error}") from error


def _make_reader(kind: type[R]) -> Callable[[Sequence[IncomingReply]], R]:
    decoder = msgspec.json.Decoder(kind)
    return lambda replies: _decode(decoder, replies[0])


explanation = _make_reader(ExplainReply)
hold = _make_reader(HoldReply)
who = _make_reader(WhoAmIReply)
status = _make_reader(Status)
_opened_socket = _make_reader(OpenSocketReply)
_opened_device = _make_reader(OpenDeviceReply)
_added_interface = _make_reader(AddInterfaceReply)
_opened_file = _make_reader(OpenFileReply)
_opened = msgspec.json.Decoder(OpenReply)
_created = msgspec.json.Decoder(CreateReply)
_devices = msgspec.json.Decoder(ListDevicesReply)
_containers = msgspec.json.Decoder(ListContainersReply)
_namespaces = msgspec.json.Decoder(ListReply)
_events = msgspec.json.Decoder(WatchReply)
_held = msgspec.json.Decoder(ListHeldReply)


def event(reply: IncomingReply) -> WatchReply:
    """Return the event in one reply of a watch, whose fds it leaves there."""
    return _decode(_events, reply)


def containers(replies: Sequence[IncomingReply]) -> tuple[list[ContainerDescription], list[UnavailableEngine]]:
    """Return the containers, and the engines that could not be asked."""
    decoded = [_decode(_containers, reply) for reply in replies]
    return (
        [reply.container for reply in decoded if reply.container is not None],
        [reply.unavailable for reply in decoded if reply.unavailable is not None],
    )


def devices(replies: Sequence[IncomingReply]) -> list[DeviceDescription]:
    """Return the listed devices."""
    return [device for reply in replies for device in _decode(_devices, reply).devices]


def device_names(replies: Sequence[IncomingReply]) -> list[FileDescription]:
    """Return the listed names below /dev."""
    decoded = [_decode(_devices, reply) for reply in replies]
    if any(reply.names is None for reply in decoded):
        # An older broker knows only devices.
        return [FileDescription(device.name, FileKind.DEVICE) for reply in decoded for device in reply.devices]
    return [name for reply in decoded for name in reply.names or ()]


def names_in(path: str, names: Sequence[FileDescription], target: str) -> list[str]:
    """Return the names in the folder `path` below /dev (empty: /dev itself).  Raises NoSuchDevice when there is no such folder."""
    prefix = f"{path.rstrip('/')}/" if path else ""
    found = {one.name.removeprefix(prefix).partition("/")[0] for one in names if one.name.startswith(prefix)}
    is_folder = any(one.kind is FileKind.DIRECTORY and f"{one.name}/" == prefix for one in names)
    if path and not found and not is_folder:
        raise NoSuchDevice(target, path, "there is no folder with that name that has anything for you")
    return sorted(found)


def namespace_list(replies: Sequence[IncomingReply]) -> list[NamespaceDescription]:
    """Return the listed namespaces."""
    decoded = [_decode(_namespaces, reply) for reply in replies]
    return [reply.namespace for reply in decoded if reply.namespace is not None]


def held(replies: Sequence[IncomingReply]) -> list[HeldDescription]:
    """Return the held namespaces."""
    decoded = [_decode(_held, reply) for reply in replies]
    return [reply.held for reply in decoded if reply.held is not None]


def opened(reply: IncomingReply, ns_types: Sequence[NamespaceType] | None) -> dict[NamespaceType, Namespace]:
    """Return handles of the opened namespaces.  If `ns_types` is given, these types must have been opened."""
    return _take_namespaces(reply, _decode(_opened, reply).namespaces, ns_types)


def created(reply: IncomingReply, ns_types: Sequence[NamespaceType]) -> tuple[dict[NamespaceType, Namespace], bool]:
    """Return handles of the created namespaces, and whether they survive a restart of the broker."""
    created_reply = _decode(_created, reply)
    return _take_namespaces(reply, created_reply.namespaces, ns_types), created_reply.durable


def _take_namespaces(
    reply: IncomingReply, opened_namespaces: Sequence[OpenedNamespace], ns_types: Sequence[NamespaceType] | None
) -> dict[NamespaceType, Namespace]:
    fds = arrange_fds(reply, [ns.namespace_file_descriptor for ns in opened_namespaces])
    taken: list[Namespace] = []
    try:
        # Type and identity are read from each descriptor, not from the reply.
        while fds:
            taken.append(take_namespace(fds))
        namespaces = {ns.type: ns for ns in taken}
        if len(namespaces) < len(taken) or (ns_types is not None and namespaces.keys() != set(ns_types)):
            names = ", ".join(ns.type for ns in taken)
            raise ProtocolError(f"the broker opened {names}, but {', '.join(ns_types or ['each type once'])} was asked for")
    except BaseException:
        for ns in taken:
            ns.close()
        raise
    return namespaces


def take_namespace(fds: list[int]) -> Namespace:
    """Return a handle that takes the first of `fds`.  Raises ProtocolError when it is no namespace."""
    try:
        return Namespace.take(fds)
    except NotANamespace as error:
        raise ProtocolError(f"the broker sent {error.reason}") from error
    except OSError as error:
        # It was opened with O_PATH, for example.
        raise ProtocolError("the broker sent a descriptor that cannot be used") from error


def opened_socket(replies: Sequence[IncomingReply], wanted: SocketKind) -> socket.socket:
    """Return the opened socket (the caller's), whose kind must be `wanted`."""
    fds = arrange_fds(replies[0], [_opened_socket(replies).socket_file_descriptor])
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
            raise ProtocolError("the broker sent a socket that cannot be used") from error
        raise
    return sock


def opened_device(replies: Sequence[IncomingReply], mode: str, flags: int) -> io.FileIO:
    """Return the opened device (the caller's), which must be open with `flags`: an access mode, and perhaps O_NONBLOCK."""
    fds = arrange_fds(replies[0], [_opened_device(replies).device_file_descriptor])
    if not stat.S_ISCHR(os.fstat(fds[0]).st_mode):
        raise ProtocolError("the broker sent something that is no character device")
    if fcntl.fcntl(fds[0], fcntl.F_GETFL) & (os.O_ACCMODE | os.O_NONBLOCK | os.O_PATH) != flags:
        raise ProtocolError("the broker sent a device that is not open for what was asked for")
    return _take_file(fds, mode)


def added_tap(replies: Sequence[IncomingReply]) -> io.FileIO:
    """Return the file (the caller's) of the tap that was added."""
    number = _added_interface(replies).interface_file_descriptor
    fds = arrange_fds(replies[0], [] if number is None else [number])
    if not fds:
        raise ProtocolError("the broker sent no descriptor of the tap")
    facts = os.fstat(fds[0])
    if not stat.S_ISCHR(facts.st_mode) or facts.st_rdev != os.makedev(*tun.DEVICE):
        raise ProtocolError("the broker sent something that is no tap")
    if fcntl.fcntl(fds[0], fcntl.F_GETFL) & (os.O_ACCMODE | os.O_NONBLOCK | os.O_PATH) != os.O_RDWR:
        raise ProtocolError("the broker sent a tap that is not open for reading and writing")
    return _take_file(fds, "r+b")


def opened_file(replies: Sequence[IncomingReply]) -> io.FileIO:
    """Return the opened file (the caller's), which must be a regular file that is open for reading."""
    fds = arrange_fds(replies[0], [_opened_file(replies).file_file_descriptor])
    if not stat.S_ISREG(os.fstat(fds[0]).st_mode):
        raise ProtocolError("the broker sent something that is no regular file")
    if fcntl.fcntl(fds[0], fcntl.F_GETFL) & (os.O_ACCMODE | os.O_PATH) != os.O_RDONLY:
        raise ProtocolError("the broker sent a file that is not open for reading alone")
    return _take_file(fds, "rb")


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


def arrange_fds(reply: IncomingReply, indices: Sequence[int]) -> list[int]:
    """Return the list of fds of the reply, in the order of `indices`.

    The reply owns the fds in this list.  A function that removes an fd from it takes the fd.
    """
    if indices == list(range(len(reply.fds))):
        return reply.fds
    try:
        reply.arrange_fds({str(place): index for place, index in enumerate(indices)})
    except BrokerError as error:
        raise ProtocolError(_WRONG_FDS) from error
    return reply.fds
