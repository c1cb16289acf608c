"""Reading facts of one process through a directory fd of /proc/PID: see proc(5).

PIDs are reused: hold a pidfd as well, and check after reading that the process is still alive.  All functions borrow the
directory fd, and raise OSError (ENOENT, ESRCH) once the process is gone.
"""

import errno
import os

from nsbroker.linux import cgroup

_SOME = 65536


def open_process(pid: int, tid: int | None = None) -> int:
    """Open the directory /proc/PID, or /proc/PID/task/TID, and return the fd (the caller's, close-on-exec)."""
    path = f"/proc/{pid}" if tid is None else f"/proc/{pid}/task/{tid}"
    return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def open_namespace(directory: int, ns_type: str) -> int:
    """Open the namespace link ns/TYPE and return an nsfs fd (the caller's, close-on-exec).

    Raises ENOENT when the process has ended.
    """
    return os.open(f"ns/{ns_type}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)


def open_root(directory: int) -> int:
    """Open the process's root directory through its magic link and return an O_PATH fd (the caller's, close-on-exec).

    This can block: the kernel can ask the file system of that directory whether it still exists, and the file system need
    not answer.  Raises ESRCH when the process has ended or is ending: it gives up its root before its pidfd shows the end.
    """
    try:
        return os.open("root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError as error:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from error


def is_there(directory: int) -> bool:
    """Return whether the process or thread still exists whose /proc directory is open as the fd `directory`."""
    try:
        os.stat("stat", dir_fd=directory)
    except OSError:
        return False
    return True


def read(directory: int, name: str) -> bytes:
    """Read one small file completely."""
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        parts = []
        while part := os.read(fd, _SOME):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)


def status(directory: int) -> dict[str, str]:
    """Return the fields of `status` as text, by name."""
    # str.splitlines() would also split at other characters, which a process can have in its name.
    lines = os.fsdecode(read(directory, "status")).split("\n")
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines if line)}


def start_time(directory: int) -> int:
    """Return when the process started, in clock ticks since boot (field 22 of `stat`)."""
    return int(_stat(directory)[19])


def processor_time(directory: int) -> float:
    """Return the seconds of processor time that the process has used (fields 14 and 15 of `stat`)."""
    fields = _stat(directory)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def thread_runs(tid: int) -> bool:
    """Return whether a thread of this process runs or waits for a processor, and not for anything else (field 3 of `stat`).

    False when it has ended, or when its state cannot be read.
    """
    try:
        directory = os.open(f"/proc/self/task/{tid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return _stat(directory)[0] == b"R"
    except OSError:
        return False
    finally:
        os.close(directory)


def _stat(directory: int) -> list[bytes]:
    """Return the fields of `stat` from field 3 on."""
    # The name in field 2 can contain spaces and parentheses.  Field 3 begins after the last ')'.
    return read(directory, "stat").rpartition(b")")[2].split()


def cgroups(directory: int) -> dict[str, str]:
    """Return the control groups of the process by hierarchy, as `cgroup.parse` does."""
    return cgroup.parse(read(directory, "cgroup"))


def is_pidfd(fd: int) -> bool:
    """Return whether `fd` (borrowed) is a pidfd, without accessing its file.

    The link of a file on disk cannot look like this, because its path starts with a '/'.
    """
    return os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[pidfd]"


def pidfd_number(pidfd: int) -> int:
    """Return the PID of `pidfd` (borrowed); −1 when its process is gone, 0 when it is not visible from our PID namespace.

    Raises EINVAL when `pidfd` is not a pidfd.
    """
    # For other files, a driver writes parts of fdinfo, which can block.
    if not is_pidfd(pidfd):
        raise OSError(errno.EINVAL, "not a pidfd")
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as lines:
        for line in lines:
            if line.startswith("Pid:"):
                return int(line.split()[1])
    raise OSError(errno.EINVAL, "not a pidfd")
