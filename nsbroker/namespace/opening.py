"""On the way to a namespace: pinning a process, opening a file that should be one, and saying what was wrong."""

import errno
import os
import stat

from nsbroker.errors import InvalidTarget, NoSuchTarget, NotANamespace, NsbrokerError, PermissionDenied
from nsbroker.linux import nsfs
from nsbroker.linux.file_handle import reopen_namespace
from nsbroker.linux.process import Process
from nsbroker.model.identity import NAME_RULE, NamespaceType, is_name

NAME_DIRECTORIES = ("/run/netns", "/var/run/netns")
"""Where `ip netns` keeps named network namespaces."""

_KERNEL_RULE = "the kernel wants a process of the same user, or CAP_SYS_PTRACE; the broker may be allowed to"


def pin(target: str, pid: int, tid: int | None = None) -> Process:
    """Pin a process or thread (the caller's to close); raises NoSuchTarget with what is wrong with the number."""
    try:
        return Process.open(pid) if tid is None else Process.open_thread(pid, tid)
    except ProcessLookupError as error:
        reason = "there is no such process" if tid is None else f"process {pid} has no thread {tid}"
        raise NoSuchTarget(target, reason) from error
    except (OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.EINVAL, errno.ENOENT):
            raise
        if tid is None and os.path.exists(f"/proc/{pid}"):
            raise NoSuchTarget(target, f"{pid} is a thread, not a process: write tid:PROCESS/{pid}") from error
        raise NoSuchTarget(target, "that can be no process's number") from error


def open_in(process: Process, kind: NamespaceType, target: str) -> int:
    """An fd (the caller's) of the namespace that `process` (borrowed) is in.  Raises NoSuchTarget, PermissionDenied."""
    try:
        return process.open_namespace(kind)
    except ProcessLookupError as error:
        raise NoSuchTarget(target, "the process has ended") from error
    except PermissionError as error:
        raise PermissionDenied(f"{target}: opening its {kind} namespace", _KERNEL_RULE) from error
    except TimeoutError as error:
        raise NoSuchTarget(target, "the process is in the midst of starting a program (execve): try again") from error


def find_file(path: str | os.PathLike[str], target: str) -> int:
    """An O_PATH fd (the caller's) of `path`, links followed.  Raises NoSuchTarget, PermissionDenied."""
    try:
        return os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise file_error(target, error) from error


def find_name(name: str, target: str) -> int:
    """An O_PATH fd (the caller's) of what `ip netns` keeps under `name`.  Raises InvalidTarget, NoSuchTarget."""
    if not is_name(name):
        raise InvalidTarget(f"{name[:80]!r} is no name of a namespace: {NAME_RULE}")
    for directory in NAME_DIRECTORIES:
        try:
            return os.open(f"{directory}/{name}", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise file_error(target, error) from error
    raise NoSuchTarget(target, f"there is no {NAME_DIRECTORIES[0]}/{name} (`ip netns` lists what there is)")


def is_network_name(name: str) -> bool:
    """Whether there is anything that `ip netns` keeps under `name`."""
    return any(os.path.lexists(f"{directory}/{name}") for directory in NAME_DIRECTORIES)


def open_found(found: int, target: str) -> int:
    """An fd (the caller's) of the namespace that `found` is, a file opened with O_PATH, which this takes also on error.

    Only what the O_PATH descriptor shows to be a namespace is opened for real: opening anything else could block, or do
    something to a device.  Raises NotANamespace.
    """
    try:
        facts = os.fstat(found)
        if facts.st_dev != nsfs.device():
            raise NotANamespace(target, f"a {describe(facts)}, not a namespace")
        fd = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(found)
    try:
        free = reopen_namespace(fd)
    except OSError:
        # An older kernel, or no right to: then the descriptor keeps busy the mount through which it was opened.
        return fd
    os.close(fd)
    return free


def file_error(target: str, error: OSError) -> NsbrokerError:
    """What to raise for a file that could not be opened."""
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return NoSuchTarget(target, "there is no such file")
        case errno.ELOOP | errno.EXDEV:
            return NotANamespace(target, "a symbolic link, not a namespace")
        case errno.EACCES | errno.EPERM:
            return PermissionDenied(target, "the file's permissions forbid it")
    return NoSuchTarget(target, error.strerror or str(error))


def describe(facts: os.stat_result) -> str:
    """What kind of file it is, in words."""
    kinds = {
        stat.S_IFREG: "plain file",
        stat.S_IFDIR: "directory",
        stat.S_IFLNK: "symbolic link",
        stat.S_IFIFO: "FIFO",
        stat.S_IFSOCK: "socket",
        stat.S_IFCHR: "character device",
        stat.S_IFBLK: "block device",
    }
    return kinds.get(stat.S_IFMT(facts.st_mode), "file")
