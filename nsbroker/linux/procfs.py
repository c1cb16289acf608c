"""What /proc says of a process, read below a directory fd of /proc/PID: see proc(5).

A number read from /proc means little alone: hold a pidfd, and see that it still lives after reading.  All functions
borrow the directory fd and raise OSError (ENOENT, ESRCH) once the process is gone.
"""

import errno
import os

_SOME = 65536


def open_process(pid: int, tid: int | None = None) -> int:
    """An fd (the caller's, close-on-exec) of /proc/PID, or of /proc/PID/task/TID."""
    path = f"/proc/{pid}" if tid is None else f"/proc/{pid}/task/{tid}"
    return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def open_namespace(directory: int, kind: str) -> int:
    """An nsfs fd (the caller's, close-on-exec) by way of ns/KIND.  ENOENT: the process has ended."""
    return os.open(f"ns/{kind}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)


def open_root(directory: int) -> int:
    """An O_PATH fd (the caller's, close-on-exec) of the process's root directory, by way of its magic link.

    Whatever file system that is on may be asked whether it is still there, and need not answer.  Raises ESRCH when the
    process has ended, or is about to: it gives its root away before its pidfd shows the end.
    """
    try:
        return os.open("root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError as error:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from error


def is_there(directory: int) -> bool:
    """Whether the process or thread that `directory` is of still is there."""
    try:
        os.stat("stat", dir_fd=directory)
    except OSError:
        return False
    return True


def read(directory: int, name: str) -> bytes:
    """The whole of one small file."""
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        parts = []
        while part := os.read(fd, _SOME):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)


def status(directory: int) -> dict[str, str]:
    """The fields of `status`, as text."""
    return {name: value.strip() for name, _, value in (line.partition(":") for line in _lines(directory, "status"))}


def start_time(directory: int) -> int:
    """When the process started, in clock ticks since boot (field 22 of `stat`)."""
    # The command in field 2 may hold spaces and parentheses: what follows its last ')' is field 3.
    return int(read(directory, "stat").rpartition(b")")[2].split()[19])


def cgroups(directory: int) -> dict[str, str]:
    """Control groups by hierarchy: "" is cgroup2, "name=systemd" systemd's own one, others as they are named."""
    groups: dict[str, str] = {}
    for line in _lines(directory, "cgroup"):
        _, name, path = line.split(":", 2)
        groups.setdefault(name, path)
    return groups


def _lines(directory: int, name: str) -> list[str]:
    # Not str.splitlines(): whoever names a control group could put a character in it that Python, not the kernel, takes
    # for the end of a line, and so write lines of their own.
    return [os.fsdecode(line) for line in read(directory, name).split(b"\n") if line]


def is_pidfd(fd: int) -> bool:
    """Whether `fd` (borrowed) is a pidfd; its file is not touched.  A file's own path starts with a '/'."""
    return os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[pidfd]"


def pidfd_number(pidfd: int) -> int:
    """The number of the process that `pidfd` (borrowed) is of, −1 when it is gone.  Raises EINVAL when it is no pidfd."""
    # What a file's driver writes there may take long: nothing else than a pidfd is asked.
    if not is_pidfd(pidfd):
        raise OSError(errno.EINVAL, "not a pidfd")
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as lines:
        for line in lines:
            if line.startswith("Pid:"):
                return int(line.split()[1])
    raise OSError(errno.EINVAL, "not a pidfd")
