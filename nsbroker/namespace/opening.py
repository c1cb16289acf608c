"""The steps of opening a namespace: pin a process, open a file that should be a namespace, and explain what went wrong."""

import errno
import os
import stat

from nsbroker.errors import InvalidTarget, InvalidType, NoSuchTarget, NotANamespace, NsbrokerError, PermissionDenied
from nsbroker.linux import nsfs
from nsbroker.linux.file_handle import reopen_namespace
from nsbroker.linux.process import Process
from nsbroker.model.identity import NAME_RULE, NamespaceType, is_name

NAME_DIRECTORIES = ("/run/netns", "/var/run/netns")
"""The directories where `ip netns` keeps named network namespaces."""

_KERNEL_RULE = "the kernel demands that the process is yours, or CAP_SYS_PTRACE; the broker may open it for you"


def check_namespace_path(path: str | os.PathLike[str]) -> None:
    """Check that the file `path` is a namespace, without opening it.

    Two different errors: NoSuchTarget when there is no such file, NotANamespace when it is something else, such as the plain
    file that `ip netns` leaves when a mount is gone.  Raises PermissionDenied for a folder that the caller may not search.
    """
    target = f"path:{os.fspath(path)}"
    found = find_file(path, target)
    try:
        _check_file(found, target)
    finally:
        os.close(found)


def check_number(number: int) -> None:
    """Check that `number` can be the number of a process or thread.  Raises InvalidTarget."""
    # To Python, True is equal to 1, but nobody who writes True means process 1.
    if isinstance(number, bool) or not isinstance(number, int):
        raise InvalidTarget(f"{number!r} is no process or thread number: write an int such as 4711")


def read_type(fd: int) -> NamespaceType:
    """Return the type of the namespace `fd` (borrowed).  Raises NotANamespace for a type that is not known here."""
    try:
        return NamespaceType.of_flag(nsfs.namespace_type(fd))
    except InvalidType as error:
        raise NotANamespace(f"fd {fd}", str(error)) from error


def pin(target: str, pid: int, tid: int | None = None) -> Process:
    """Pin a process or thread (the caller's to close).  Raises NoSuchTarget, which says what is wrong with the number."""
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
        raise NoSuchTarget(target, "no process can have that number") from error


def open_in(process: Process, ns_type: NamespaceType, target: str) -> int:
    """Open a namespace of `process` (borrowed); the fd is the caller's to close.  Raises NoSuchTarget, PermissionDenied."""
    try:
        return process.open_namespace(ns_type)
    except ProcessLookupError as error:
        raise NoSuchTarget(target, "the process has ended") from error
    except PermissionError as error:
        raise PermissionDenied(f"open the {ns_type} namespace of {target}", _KERNEL_RULE) from error
    except TimeoutError as error:
        raise NoSuchTarget(target, "the process is just starting a program (execve): try again") from error


def find_file(path: str | os.PathLike[str], target: str) -> int:
    """Open `path` with O_PATH, following links; the fd is the caller's to close.  Raises NoSuchTarget, PermissionDenied."""
    try:
        return os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise file_error(target, error) from error


def find_name(name: str, target: str) -> int:
    """Open the file that `ip netns` keeps for `name`, as `find_named_file` does; the fd is the caller's to close."""
    return find_named_file(name, target)[0]


def find_named_file(name: str, target: str) -> tuple[int, str]:
    """Open the file that `ip netns` keeps for `name`, with O_PATH; the fd is the caller's to close.  Return its path, too.

    No link is followed.  Raises InvalidTarget, NoSuchTarget, NotANamespace, PermissionDenied.
    """
    if not is_name(name):
        raise InvalidTarget(f"{name[:80]!r} is no name of a namespace: {NAME_RULE}")
    for directory in NAME_DIRECTORIES:
        path = f"{directory}/{name}"
        try:
            return os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC), path
        except FileNotFoundError:
            continue
        except OSError as error:
            raise file_error(target, error) from error
    raise NoSuchTarget(target, f"there is no {NAME_DIRECTORIES[0]}/{name} (`ip netns` lists the names)")


def is_network_name(name: str) -> bool:
    """Return whether `ip netns` has a file for `name`."""
    return any(os.path.lexists(f"{directory}/{name}") for directory in NAME_DIRECTORIES)


def open_found(found: int, target: str) -> int:
    """Open the namespace that the O_PATH descriptor `found` refers to; the fd is the caller's to close.

    Takes `found`, also on error.  The file is opened for real only if the O_PATH descriptor shows that it is a namespace:
    opening another file could block, or make a device do something.  Raises NotANamespace.
    """
    try:
        _check_file(found, target)
        fd = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(found)
    try:
        reopened = reopen_namespace(fd)
    except OSError:
        # The kernel is too old, or does not permit it.  Then the descriptor keeps the mount busy through which it was opened.
        return fd
    os.close(fd)
    return reopened


def _check_file(found: int, target: str) -> None:
    facts = os.fstat(found)
    if facts.st_dev != nsfs.device():
        raise NotANamespace(target, f"a {describe(facts)}, not a namespace")


def file_error(target: str, error: OSError) -> NsbrokerError:
    """Return the exception to raise for a file that could not be opened."""
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return NoSuchTarget(target, "there is no such file")
        case errno.ELOOP | errno.EXDEV:
            return NotANamespace(target, "a symbolic link, not a namespace")
        case errno.EACCES | errno.EPERM:
            return PermissionDenied(target, "the file's permissions forbid it")
    return NoSuchTarget(target, error.strerror or str(error))


def describe(facts: os.stat_result) -> str:
    """Return what kind of file this is, in words."""
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
