"""The method OpenFile: a few files of a target, for reading.

The files with which the target looks names up lie below its root directory, and the target decides what is there.  The broker reads
them with the rights of the caller alone, and hands over a copy: so the caller gets nothing that its user may not read, and no file
system of the target can block it.  The files of the target's network belong to the kernel, and are handed over as they are.
"""

import errno
import os
from collections.abc import Mapping

import trio

from nsbroker.daemon.context import Context
from nsbroker.daemon.methods.authorization import Authorization, begin
from nsbroker.daemon.methods.call import Caller, PendingReply, Reply, reason_of
from nsbroker.daemon.methods.visits import Visits
from nsbroker.daemon.peer import Maker
from nsbroker.daemon.policy.permission import File
from nsbroker.daemon.targets.pinned import Pinned
from nsbroker.errors import InvalidParameter, NoSuchFile, NoSuchTarget
from nsbroker.linux import foreign_file, memfd, procfs
from nsbroker.linux.credentials import acting_groups
from nsbroker.linux.descriptors import is_out_of_files
from nsbroker.model.target_file import CONFIGURATION, NAMES
from nsbroker.namespace import Namespace
from nsbroker.protocol.file_messages import OpenFileReply, OpenFileRequest
from nsbroker.varlink.connection import IncomingCall

# At most this many threads are inside namespaces at one time.
_VISITS_MAX = 8
_REASONS: Mapping[int, str] = {
    errno.ENOENT: "there is no such file",
    errno.ENOTDIR: "there is no such file",
    errno.ELOOP: "a symbolic link, which is not followed",
    errno.EACCES: "your user may not read it, and the broker reads it with your user's rights",
    errno.EPERM: "your user may not read it, and the broker reads it with your user's rights",
}


class OpenFileMethod:
    """Answers calls to OpenFile."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._visits = Visits(_VISITS_MAX)

    def open(self, caller: Caller, call: IncomingCall, request: OpenFileRequest) -> PendingReply:
        """Open one file."""
        name = request.name
        if name not in NAMES:
            raise InvalidParameter("name")
        wanted = File(name)
        authorization = begin(
            self._context, "OpenFile", caller, call, request.target, (wanted,), hands_over=True, details=str(wanted)
        )
        return self._open(caller, authorization, name)

    async def _open(self, caller: Caller, authorization: Authorization, name: str) -> Reply:
        async with authorization as pinned:
            if name in CONFIGURATION:
                authorization.check_access()
                fd = memfd.sealed_copy(name, await self._read_configuration(caller, pinned, name))
            else:
                with authorization.open_network() as ns:
                    fd = await self._open_inside(caller, pinned, ns, name)
            authorization.on_failure(lambda: os.close(fd))
        return Reply(OpenFileReply(0), [fd])

    async def _read_configuration(self, caller: Caller, pinned: Pinned, name: str) -> bytes:
        """Read /etc/NAME below the target's root directory.  Raises NoSuchFile, NoSuchTarget."""
        maker, directory = caller.peer.maker(), pinned.directory()

        def read() -> bytes:
            try:
                return _read_as(maker, directory, f"etc/{name}")
            finally:
                os.close(directory)

        try:
            return await self._context.threads.run(
                caller.peer.user,
                pinned.target,
                self._context.users.limits.device_deadline,
                read,
                lambda _: None,
                lambda: os.close(directory),
            )
        except trio.TooSlowError as error:
            raise NoSuchFile(pinned.target, name, "its file system did not answer in time") from error
        except ProcessLookupError as error:
            raise NoSuchTarget(pinned.target, "the process has ended") from error
        except OSError as error:
            raise _explain(error, pinned, name) from error

    async def _open_inside(self, caller: Caller, pinned: Pinned, ns: Namespace, name: str) -> int:
        """Open /proc/thread-self/NAME on a thread that is in `ns` (borrowed), and return the fd (the caller's)."""
        maker = caller.peer.maker()
        try:
            opened = await self._visits.call(ns, _Opening(maker, ns, name))
        except OSError as error:
            raise _explain(error, pinned, name) from error
        return opened.take()


class _Opened:
    """An fd that the garbage collector closes, unless somebody takes it: nobody may wait for the thread that opened it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def take(self) -> int:
        """Return the fd, which is the caller's from now on."""
        fd, self._fd = self._fd, -1
        return fd

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


class _Opening:
    """Opens a file of the network `ns` as the user `maker`.  Call it on a thread that is inside."""

    def __init__(self, maker: Maker, ns: Namespace, name: str) -> None:
        self._maker = maker
        self._expected = (ns.device, ns.inode)
        self._name = name

    def __call__(self) -> _Opened:
        """Open the file.  Raises OSError; RuntimeError when the thread is in another network than it should be."""
        self._check_inside()
        with acting_groups(self._maker.groups), self._maker.credentials:
            opened = _Opened(os.open(f"/proc/thread-self/{self._name}", os.O_RDONLY | os.O_CLOEXEC))
        self._check_inside()
        return opened

    def _check_inside(self) -> None:
        facts = os.stat("/proc/thread-self/ns/net")
        if (facts.st_dev, facts.st_ino) != self._expected:
            raise RuntimeError(f"a thread that should be in net:[{self._expected[1]}] is in net:[{facts.st_ino}]")


def _read_as(maker: Maker, process: int, path: str) -> bytes:
    """Read `path` below the root directory of a process as the user `maker`.  Borrows the directory fd of its /proc/PID."""
    root = procfs.open_root(process)
    try:
        with acting_groups(maker.groups), maker.credentials:
            return foreign_file.read(root, path)
    finally:
        os.close(root)


def _explain(error: OSError, pinned: Pinned, name: str) -> Exception:
    """Return the error for the caller.  Raises NoSuchTarget when the process has ended meanwhile."""
    if is_out_of_files(error):
        return error
    pinned.check_unchanged()
    return NoSuchFile(pinned.target, name, reason_of(error, _REASONS))
