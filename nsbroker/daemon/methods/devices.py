"""The verbs ListDevices and OpenDevice: character devices below a container's /dev.

What is there was put there by the container: a name proves nothing.  A node is found from the pinned process's root,
without following links; it is opened only when its numbers, too, are those that the rules mean by its name.
"""

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

import trio

from nsbroker.daemon.context import Parts
from nsbroker.daemon.methods.authorization import Inquiry, inquire
from nsbroker.daemon.methods.call import Answer, Caller, Later
from nsbroker.daemon.policy.permission import SOME_DEVICE, Device, DeviceNumber, is_device_name
from nsbroker.daemon.targets.pinned import Pinned
from nsbroker.errors import InvalidParameter, NoSuchDevice, NoSuchTarget, PermissionDenied
from nsbroker.linux import device, procfs
from nsbroker.protocol.messages import (
    DeviceAccess,
    DeviceDescription,
    ListDevicesReply,
    ListDevicesRequest,
    OpenDeviceReply,
    OpenDeviceRequest,
)
from nsbroker.varlink.connection import IncomingCall

T = TypeVar("T")

# Of the 65536 bytes of a message: in all, and for each beside its name.
_LISTED_MAX = 60_000
_NUMBERS_MAX = 60
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


class Devices:
    """Answers calls for devices."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def list(self, caller: Caller, call: IncomingCall, request: ListDevicesRequest) -> Later:
        """Those that the caller may open."""
        inquiry = inquire(self._parts, "ListDevices", caller, call, request.target, (SOME_DEVICE,))
        inquiry.details = "devices"
        return self._list(caller, inquiry)

    async def _list(self, caller: Caller, inquiry: Inquiry) -> Answer:
        with inquiry:
            pinned = await inquiry.pin()
            try:
                if not inquiry.judge(pinned).allowed:
                    raise PermissionDenied
                inquiry.check_access(pinned)
                there = await self._on_thread(caller, pinned, "*", pinned.directory(), _walk, lambda _: None)
                found = [Device(name, DeviceNumber(*number)) for name, number in there if is_device_name(name)]
                mine = [one for one in found if inquiry.verdict_on(pinned, (one,)).allowed]
                pinned.see_unchanged()
                inquiry.succeed()
            finally:
                pinned.close()
        return Answer(ListDevicesReply(list(_fitting(sorted(mine)))))

    def open(self, caller: Caller, call: IncomingCall, request: OpenDeviceRequest) -> Later:
        """Open one."""
        if not is_device_name(request.name):
            raise InvalidParameter("name")
        wanted = Device(request.name)
        inquiry = inquire(self._parts, "OpenDevice", caller, call, request.target, (wanted,))
        inquiry.details = f"device {request.name} {request.access}"
        return self._open(caller, inquiry, wanted, request.access)

    async def _open(self, caller: Caller, inquiry: Inquiry, wanted: Device, access: DeviceAccess) -> Answer:
        with inquiry:
            pinned = await inquiry.pin()
            try:
                if not inquiry.judge(pinned).allowed:
                    raise PermissionDenied
                inquiry.check_access(pinned)
                self._parts.users.check(caller.charge, 1)
                fd = await self._open_allowed(caller, inquiry, pinned, wanted.name, access)
                try:
                    pinned.see_unchanged()
                    inquiry.succeed()
                except BaseException:
                    self._close(fd, caller.peer.user)
                    raise
            finally:
                pinned.close()
        return Answer(OpenDeviceReply(0), [fd], closing_waits=True)

    async def _open_allowed(self, caller: Caller, inquiry: Inquiry, pinned: Pinned, name: str, access: DeviceAccess) -> int:
        """An fd of the device, after a look at what has its name."""
        found, numbers = await self._on_thread(
            caller, pinned, name, pinned.directory(), lambda process: _find(process, name), lambda late: os.close(late[0])
        )
        try:
            if numbers is None:
                raise NoSuchDevice(pinned.target, name, "what has that name is no character device")
            number = DeviceNumber(*numbers)
            inquiry.details += f" ({number})"
            if not inquiry.verdict_on(pinned, (Device(name, number),)).allowed:
                raise NoSuchDevice(pinned.target, name, f"what has that name is the device {number}, not the one that it should be")
        except BaseException:
            os.close(found)
            raise
        user = caller.peer.user
        return await self._on_thread(
            caller, pinned, name, found, lambda node: device.open_found(node, access.flags), lambda late: self._close(late, user)
        )

    async def _on_thread(
        self, caller: Caller, pinned: Pinned, name: str, fd: int, function: Callable[[int], T], undo: Callable[[T], object]
    ) -> T:
        """What `function` makes of `fd` (taken), on a thread that can be abandoned."""

        def work() -> T:
            try:
                return function(fd)
            finally:
                os.close(fd)

        try:
            deadline = self._parts.users.limits.device_deadline
            return await self._parts.threads.run(caller.peer.user, pinned.target, deadline, work, undo, lambda: os.close(fd))
        except trio.TooSlowError as error:
            raise NoSuchDevice(pinned.target, name, "it did not answer in time") from error
        except ProcessLookupError as error:
            raise NoSuchTarget(pinned.target, "the process has ended") from error
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise
            # Of a process that has ended meanwhile, nothing is there.
            pinned.see_unchanged()
            raise NoSuchDevice(pinned.target, name, _REASONS.get(error.errno or 0) or error.strerror or str(error)) from error

    def _close(self, fd: int, user: int) -> None:
        # Closing a device can take its time, too.
        self._parts.users.closer.close(fd, user)


def _walk(process: int) -> list[tuple[str, tuple[int, int]]]:
    root = procfs.open_root(process)
    try:
        return list(device.walk(root))
    finally:
        os.close(root)


def _find(process: int, name: str) -> tuple[int, tuple[int, int] | None]:
    """An O_PATH fd (the caller's) of what has that name, and the numbers of the device that it is."""
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


def _fitting(devices: Iterable[Device]) -> Iterator[DeviceDescription]:
    """As many as fit into a reply."""
    left = _LISTED_MAX
    for one in devices:
        number = one.number or DeviceNumber(0, 0)
        left -= len(one.name) + _NUMBERS_MAX
        if left < 0:
            return
        yield DeviceDescription(one.name, number.major, number.minor)
