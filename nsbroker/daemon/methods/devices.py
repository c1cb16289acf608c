"""The methods ListDevices and OpenDevice: character devices below a container's /dev.

The container controls what is there, so a name proves nothing.  A device node is looked up from the root of the pinned process,
without following links.  It is opened only if its device number is the one that the rules mean by that name.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import msgspec
import trio

from nsbroker.daemon.context import Context
from nsbroker.daemon.methods.authorization import Authorization, begin
from nsbroker.daemon.methods.call import Caller, PendingReply, Reply, ReplyStream, reason_of
from nsbroker.daemon.policy.permission import EVERY_DEVICE, SOME_DEVICE, Device, DeviceNumber, is_device_name
from nsbroker.daemon.targets.pinned import Pinned
from nsbroker.errors import InvalidParameter, NoSuchDevice, NoSuchTarget
from nsbroker.linux import device, procfs
from nsbroker.linux.descriptors import is_out_of_files
from nsbroker.model.file_description import FileDescription, FileKind
from nsbroker.protocol.messages import (
    DeviceDescription,
    ListDevicesReply,
    ListDevicesRequest,
    OpenDeviceReply,
    OpenDeviceRequest,
)
from nsbroker.varlink.connection import IncomingCall

T = TypeVar("T")

# A message has at most 65536 bytes.  A list of devices or names may have _LISTED_MAX bytes: each counts as the length of its name
# in JSON and _NUMBERS_MAX more.
_LISTED_MAX = 60_000
_NUMBERS_MAX = 60
# After this many devices, other tasks get their turn.
_IN_A_ROW = 64
_REASONS: Mapping[int, str] = {
    errno.ENOENT: "there is no such file",
    errno.ENOTDIR: "there is no such file",
    errno.ELOOP: "a symbolic link, which is not followed",
    errno.EFBIG: "there are more files than the broker looks at",
    errno.EPERM: "the broker itself may not open it (DeviceAllow= of its unit)",
    errno.EACCES: "it lies on a file system on which devices are not allowed",
    errno.ENXIO: "this kernel has no driver for it",
    errno.ENODEV: "this kernel has no driver for it",
    errno.EBUSY: "somebody else has it open",
}


class DeviceMethods:
    """Answers calls to ListDevices and OpenDevice."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def list(self, caller: Caller, call: IncomingCall, request: ListDevicesRequest) -> PendingReply | ReplyStream:
        """List the devices that the caller may open, and to a call with `more` also the names that the caller may see."""
        authorization = begin(self._context, "ListDevices", caller, call, request.target, (SOME_DEVICE,), details="devices")
        return self._stream_list(caller, authorization) if call.more else self._list(caller, authorization)

    async def _list(self, caller: Caller, authorization: Authorization) -> Reply:
        devices, _ = await self._find_all(caller, authorization)
        first = next(_split(devices), ())
        return Reply(ListDevicesReply([one for one in first if isinstance(one, DeviceDescription)]))

    async def _stream_list(self, caller: Caller, authorization: Authorization) -> ReplyStream:
        devices, names = await self._find_all(caller, authorization)
        for part in _split((*devices, *names)):
            part_devices = [one for one in part if isinstance(one, DeviceDescription)]
            yield Reply(ListDevicesReply(part_devices, [one for one in part if isinstance(one, FileDescription)]), continues=True)
        yield Reply(ListDevicesReply([], []))

    async def _find_all(
        self, caller: Caller, authorization: Authorization
    ) -> tuple[Sequence[DeviceDescription], Sequence[FileDescription]]:
        """Return the devices that the caller may open, and the names that it may see: all of them, or those of the devices."""
        async with authorization as pinned:
            authorization.check_access()
            there = await self._on_thread(caller, pinned, "/dev", pinned.directory(), _walk, lambda _: None)
            found = [
                Device(name, DeviceNumber(os.major(facts.st_rdev), os.minor(facts.st_rdev)))
                for name, facts in there
                if stat.S_ISCHR(facts.st_mode) and is_device_name(name)
            ]
            allowed = []
            for number, node in enumerate(found):
                if number % _IN_A_ROW == 0:
                    await trio.lowlevel.checkpoint()
                if authorization.verdict_on((node,)).allowed:
                    allowed.append(node)
            allowed.sort()
            sees_all = authorization.verdict_on((EVERY_DEVICE,)).allowed
        devices = [DeviceDescription(name, *numbers) for name, numbers in allowed if numbers is not None]
        if sees_all:
            return devices, [FileDescription(_printable(name), FileKind.of_mode(facts.st_mode)) for name, facts in there]
        return devices, [FileDescription(one.name, FileKind.DEVICE) for one in devices]

    def open(self, caller: Caller, call: IncomingCall, request: OpenDeviceRequest) -> PendingReply:
        """Open one device."""
        if not is_device_name(request.name):
            raise InvalidParameter("name")
        wanted, details = Device(request.name), f"device {request.name} {request.access}"
        details += " nonBlocking" if request.non_blocking else ""
        authorization = begin(
            self._context, "OpenDevice", caller, call, request.target, (wanted,), hands_over=True, details=details
        )
        return self._open(caller, authorization, request)

    async def _open(self, caller: Caller, authorization: Authorization, request: OpenDeviceRequest) -> Reply:
        async with authorization as pinned:
            authorization.check_access()
            fd = await self._open_allowed(caller, authorization, pinned, request)
            authorization.on_failure(lambda: self._close(fd, caller.peer.user))
        return Reply(OpenDeviceReply(0), [fd], slow_fds=[fd])

    async def _open_allowed(self, caller: Caller, authorization: Authorization, pinned: Pinned, request: OpenDeviceRequest) -> int:
        """Check the file with that name, and return an fd of the device (the caller's to close).  Raises NoSuchDevice."""
        name, user = request.name, caller.peer.user
        found, numbers = await self._on_thread(
            caller, pinned, name, pinned.directory(), lambda process: _find(process, name), lambda late: self._close(late[0], user)
        )
        try:
            if numbers is None:
                raise NoSuchDevice(pinned.target, name, "the file with that name is no character device")
            number = DeviceNumber(*numbers)
            authorization.details += f" ({number})"
            if not authorization.verdict_on((Device(name, number),)).allowed:
                raise NoSuchDevice(
                    pinned.target, name, f"the file with that name is the device {number}, not the one that the rules mean by it"
                )
        except BaseException:
            self._close(found, user)
            raise

        def open_found(node: int) -> int:
            return device.open_found(node, request.access.flags, non_blocking=bool(request.non_blocking))

        return await self._on_thread(caller, pinned, name, found, open_found, lambda late: self._close(late, user))

    async def _on_thread(
        self, caller: Caller, pinned: Pinned, name: str, fd: int, function: Callable[[int], T], undo: Callable[[T], object]
    ) -> T:
        """Run `function` with `fd` (taken) on a thread that can be abandoned, and return its result.

        `undo` gets a result that comes too late.  Raises NoSuchDevice for `name`, NoSuchTarget when the process has ended.
        """

        def work() -> T:
            try:
                return function(fd)
            finally:
                os.close(fd)

        def skip() -> None:
            self._close(fd, caller.peer.user)

        try:
            deadline = self._context.users.limits.device_deadline
            return await self._context.threads.run(caller.peer.user, pinned.target, deadline, work, undo, skip)
        except trio.TooSlowError as error:
            raise NoSuchDevice(pinned.target, name, "it did not answer in time") from error
        except ProcessLookupError as error:
            raise NoSuchTarget(pinned.target, "the process has ended") from error
        except OSError as error:
            if is_out_of_files(error):
                raise
            # The error may only mean that the process has ended meanwhile: then this raises NoSuchTarget.
            pinned.check_unchanged()
            raise NoSuchDevice(pinned.target, name, reason_of(error, _REASONS)) from error

    def _close(self, fd: int, user: int) -> None:
        # Closing a device can block, and so can closing any file that is the last one of a file system: that unmounts it.
        self._context.users.closer.close(fd, user)


def _walk(process: int) -> list[tuple[str, os.stat_result]]:
    root = procfs.open_root(process)
    try:
        return sorted(device.walk(root), key=lambda found: found[0])
    finally:
        os.close(root)


def _find(process: int, name: str) -> tuple[int, tuple[int, int] | None]:
    """Find the file `name`.  Return an O_PATH fd of it (the caller's to close) and its device number, None if it is no device."""
    root = procfs.open_root(process)
    try:
        found = device.find(root, name)
    finally:
        os.close(root)
    try:
        return found, device.number(found)
    except BaseException:
        os.close(found)
        raise


def _printable(name: str) -> str:
    """Return the name, with its bytes that are no UTF-8 as escapes, since JSON has no way to write them."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _split(descriptions: Iterable[DeviceDescription | FileDescription]) -> Iterator[list[DeviceDescription | FileDescription]]:
    """Split the descriptions into parts, each of which fits into a reply."""
    part: list[DeviceDescription | FileDescription] = []
    left = _LISTED_MAX
    for one in descriptions:
        size = len(msgspec.json.encode(one.name)) + _NUMBERS_MAX
        if size > left:
            yield part
            part, left = [], _LISTED_MAX
        left -= size
        part.append(one)
    if part:
        yield part
