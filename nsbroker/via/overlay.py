"""Putting files of the target over those of the host, for the command alone.  All of it runs in the child, before execve(2)."""

import contextlib
import errno
import mmap
import os
from collections.abc import Mapping

from nsbroker.linux import mounts, user_namespace
from nsbroker.linux.setns import CLONE_NEWNS, unshare

_TEXT_MAX = 4096
# The files are copied into memory, which each command has for itself.  Long lists of blocked hosts have some ten megabytes.
_SIZE_MAX = 64 * 2**20
# Anything can be mounted here while nothing below it is needed.  It is there on every system.
_STAGE = "/proc"
# Services of the host that would answer instead of the files: systemd-resolved, nscd and avahi.
_SERVICES = ("/run/systemd/resolve/io.systemd.Resolve", "/run/nscd/socket", "/run/avahi-daemon/socket")


def put_over_host(files: Mapping[str, bytes]) -> str:
    """Let this process see each of `files` in /etc, by its name, in a mount namespace of its own.

    Return why that is not possible here; the process is then as before.  Empty if all is well.  The process has one thread.
    Users need a user namespace of their own for this, too.  Raises OSError if it is possible, but then fails.
    """
    reason = _try_in_child(files)
    if not reason:
        _put(files)
    return reason


def _try_in_child(files: Mapping[str, bytes]) -> str:
    """Try it in a child, because no process can leave a user namespace, and return why it fails there."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        reason = "nsbroker itself has failed"
        try:
            reason = _explain_failure(files)
        finally:
            os.write(write, reason.encode(errors="replace")[:_TEXT_MAX])
            os._exit(0)
    os.close(write)
    # The child writes once, and less than a pipe takes at once.
    reason = os.read(read, _TEXT_MAX).decode(errors="replace")
    os.close(read)
    with contextlib.suppress(ChildProcessError):
        # Where SIGCHLD is ignored, the kernel has removed it already.
        os.waitpid(child, 0)
    return reason


def _explain_failure(files: Mapping[str, bytes]) -> str:
    try:
        _put(files)
    except OSError as error:
        # An error with a path is one of mounting, or of a map in /proc that must not be written.
        if error.filename is not None and not str(error.filename).startswith("/proc/self/"):
            return f"nothing can be mounted over {error.filename} ({error.strerror})"
        return user_namespace.why_refused(error)
    return ""


def _put(files: Mapping[str, bytes]) -> None:
    for name, text in files.items():
        if len(text) > _SIZE_MAX:
            raise OSError(errno.EFBIG, f"the file has {len(text)} bytes, and {_SIZE_MAX} is the most", f"/etc/{name}")
    if os.geteuid() == 0:
        unshare(CLONE_NEWNS)
    else:
        user_namespace.enter_new(CLONE_NEWNS)
    mounts.make_slave("/")
    # The last page of each file can be almost empty.
    mounts.mount_memory(_STAGE, sum(map(len, files.values())) + (len(files) + 1) * mmap.PAGESIZE)
    for name, text in files.items():
        _copy(name, text)
        # A link such as the one from /etc/resolv.conf to a file of systemd-resolved is followed.
        mounts.bind(f"{_STAGE}/{name}", f"/etc/{name}")
    _write(f"{_STAGE}/none", b"")
    for path in filter(os.path.exists, _SERVICES):
        # connect(2) to a regular file is refused, and libc then goes on with the files.
        mounts.bind(f"{_STAGE}/none", path)
    mounts.unmount(_STAGE)


def _copy(name: str, text: bytes) -> None:
    """Make the file that takes the place of /etc/`name`.  Raises OSError with that path."""
    try:
        _write(f"{_STAGE}/{name}", text)
    except OSError as error:
        raise OSError(error.errno, f"{len(text)} bytes cannot be kept in memory: {error.strerror}", f"/etc/{name}") from error


def _write(path: str, text: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.fchmod(fd, 0o644)
        # A file system that becomes full takes only a part, and says why with the next call.
        rest = memoryview(text)
        while rest:
            rest = rest[os.write(fd, rest) :]
    finally:
        os.close(fd)
