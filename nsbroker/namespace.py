"""The handle: `Namespace`, an owned nsfs file descriptor whose type and identity were read from that descriptor."""

import enum
import errno
import os
import stat
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn, Self

from nsbroker.errors import InvalidTarget, InvalidType, NoSuchTarget, NotANamespace, NsbrokerError, PermissionDenied
from nsbroker.linux import nsfs, setns
from nsbroker.linux.features import features
from nsbroker.linux.file_handle import reopen_namespace
from nsbroker.linux.process import Process

NAME_DIRECTORIES = ("/run/netns", "/var/run/netns")
"""Where `ip netns` keeps named network namespaces."""


class NamespaceType(enum.StrEnum):
    """The eight types, named as in /proc/PID/ns (namespaces(7))."""

    CGROUP = "cgroup"
    IPC = "ipc"
    MNT = "mnt"
    NET = "net"
    PID = "pid"
    TIME = "time"
    USER = "user"
    UTS = "uts"

    @property
    def flag(self) -> int:
        """Its CLONE_NEW* flag."""
        return _FLAGS[self]

    @classmethod
    def parse(cls, text: str) -> "NamespaceType":
        """`text` as a type; raises InvalidType, which lists all types."""
        kind = _BY_NAME.get(text)
        if kind is None:
            raise InvalidType(f"{text!r} is no namespace type: use one of {', '.join(cls)}")
        return kind


_FLAGS: Mapping[NamespaceType, int] = {
    NamespaceType.CGROUP: setns.CLONE_NEWCGROUP,
    NamespaceType.IPC: setns.CLONE_NEWIPC,
    NamespaceType.MNT: setns.CLONE_NEWNS,
    NamespaceType.NET: setns.CLONE_NEWNET,
    NamespaceType.PID: setns.CLONE_NEWPID,
    NamespaceType.TIME: setns.CLONE_NEWTIME,
    NamespaceType.USER: setns.CLONE_NEWUSER,
    NamespaceType.UTS: setns.CLONE_NEWUTS,
}
_BY_NAME: Mapping[str, NamespaceType] = {kind.value: kind for kind in NamespaceType}
_TYPES = {flag: kind for kind, flag in _FLAGS.items()}


@dataclass(frozen=True, slots=True)
class NamespaceId:
    """Which namespace: its type and inode, and where it was read from a handle also the device of nsfs and (Linux 6.18)
    the kernel's 64-bit id, which unlike an inode is never used again.
    """

    type: NamespaceType
    inode: int
    device: int | None = None
    unique: int | None = None

    def __str__(self) -> str:
        """As `ls -l /proc/self/ns` prints it."""
        return f"{self.type}:[{self.inode}]"

    @classmethod
    def parse(cls, text: str) -> Self:
        """`net:[4026531840]`, nothing else; raises InvalidTarget."""
        kind, colon, rest = text.partition(":")
        digits = rest[1:-1]
        if colon and rest[:1] == "[" and rest[-1:] == "]" and digits.isascii() and digits.isdigit() and kind in _BY_NAME:
            inode = int(digits)
            if 0 < inode < 2**32 and digits[0] != "0":
                return cls(NamespaceType(kind), inode)
        raise InvalidTarget(f"{text!r} is no namespace id: write it as `ls -l /proc/self/ns` does, such as net:[4026531840]")

    def matches(self, other: "NamespaceId") -> bool:
        """Whether both can mean the same namespace: what both know is equal."""
        return (
            (self.type, self.inode) == (other.type, other.inode)
            and (None in (self.device, other.device) or self.device == other.device)
            and (None in (self.unique, other.unique) or self.unique == other.unique)
        )


class Namespace:
    """A namespace, held open.  It lives at least as long as the handle.

    Two handles are equal when they are of the same namespace, whatever their descriptors.  Close it, or use it as a
    context manager; one that is forgotten warns (ResourceWarning).  After `close()` its `type` and `id` stay readable,
    everything else raises ValueError.
    """

    __slots__ = ("__weakref__", "_fd", "_owned", "_unique", "device", "inode", "type")

    type: NamespaceType
    device: int
    """st_dev, the same for all namespaces of a host."""
    inode: int
    """st_ino, which tells namespaces apart as long as they are held."""

    def __init__(self, fd: int, kind: NamespaceType | None = None, *, owned: bool = True) -> None:
        """Use `from_fd` and its like.  Takes `fd` (unless `owned` is false) only when it returns: an error leaves it open.

        `kind` is trusted; pass it only when the kernel promised it.
        """
        self._fd = -1
        facts = os.fstat(fd)
        if facts.st_dev != nsfs.device():
            raise NotANamespace(f"fd {fd}", f"a {_what(facts)}, not a namespace")
        self.type = kind or _type_of(fd)
        self.device = facts.st_dev
        self.inode = facts.st_ino
        self._unique: int | None = None
        self._owned = owned
        self._fd = fd

    @classmethod
    def from_fd(cls, fd: int, *, owned: bool, type: str | None = None, verify: bool = True) -> Self:
        """A handle of the open file `fd`.

        With `owned` the handle takes `fd`, makes it close-on-exec and closes it, also when this raises; without, `fd`
        stays the caller's, who keeps it open as long as the handle is in use.  `type` is what it should be: checked, or
        with `verify=False` believed, which saves an ioctl.  Raises NotANamespace; ValueError for a closed fd.
        """
        try:
            wanted = None if type is None else NamespaceType.parse(type)
            if owned:
                os.set_inheritable(fd, False)
            handle = cls(fd, None if verify else wanted, owned=owned)
        except OSError as error:
            raise ValueError(f"fd {fd} is not open") from error
        except BaseException:
            if owned:
                os.close(fd)
            raise
        return handle._of_type(wanted, f"fd {fd}")

    @classmethod
    def from_pid(cls, pid: int, type: str) -> Self:
        """The namespace that process `pid` is in.  Without the broker: needs PTRACE_MODE_READ over it (ptrace(2)).

        Raises NoSuchTarget (none, ended, or a thread's number) and PermissionDenied.
        """
        target = f"pid:{pid}"
        with pin(target, pid) as process:
            return cls.from_process(process, NamespaceType.parse(type), target)

    @classmethod
    def from_thread(cls, pid: int, tid: int, type: str) -> Self:
        """The namespace that thread `tid` of process `pid` is in; as `from_pid`."""
        target = f"tid:{pid}/{tid}"
        with pin(target, pid, tid) as process:
            return cls.from_process(process, NamespaceType.parse(type), target)

    @classmethod
    def from_process(cls, process: Process, type: "NamespaceType", target: str) -> Self:
        """The namespace that the pinned `process` (borrowed) is in; `target` names it in errors."""
        try:
            fd = process.open_namespace(type)
        except ProcessLookupError as error:
            raise NoSuchTarget(target, "the process has ended") from error
        except PermissionError as error:
            raise PermissionDenied(f"{target}: opening its {type} namespace", _KERNEL_RULE) from error
        return cls._adopt(fd, type)

    @classmethod
    def from_path(cls, path: str | os.PathLike[str], type: str | None = None) -> Self:
        """The namespace that the file `path` is (a bind mount, or a link in /proc/PID/ns); `type` is checked.

        Raises NoSuchTarget, NotANamespace, PermissionDenied.
        """
        target = f"path:{os.fspath(path)}"
        wanted = None if type is None else NamespaceType.parse(type)
        try:
            found = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            raise file_error(target, error) from error
        return cls.from_found(found, target)._of_type(wanted, target)

    @classmethod
    def from_name(cls, name: str, type: str | None = None) -> Self:
        """The namespace that `ip netns` knows as `name`, one path component; `type` is checked.

        Raises InvalidTarget for what can be no name, NoSuchTarget, NotANamespace.
        """
        target = f"name:{name}"
        if not is_name(name):
            raise InvalidTarget(f"{name!r} is no name of a namespace: {NAME_RULE}")
        wanted = None if type is None else NamespaceType.parse(type)
        for directory in NAME_DIRECTORIES:
            try:
                found = os.open(f"{directory}/{name}", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise file_error(target, error) from error
            return cls.from_found(found, target)._of_type(wanted, target)
        raise NoSuchTarget(target, f"there is no {NAME_DIRECTORIES[0]}/{name} (`ip netns` lists what there is)")

    @classmethod
    def from_found(cls, found: int, target: str) -> Self:
        """The namespace that `found` is, a file opened with O_PATH, which this takes also on error.

        Only what the O_PATH descriptor shows to be a namespace is opened for real: opening anything else could block, or
        do something to a device.
        """
        try:
            facts = os.fstat(found)
            if facts.st_dev != nsfs.device():
                raise NotANamespace(target, f"a {_what(facts)}, not a namespace")
            fd = _open_found(found)
        finally:
            os.close(found)
        return cls._adopt(fd)

    @classmethod
    def current(cls, type: str) -> Self:
        """The namespace that the calling thread is in, which need not be the one of the process's main thread."""
        kind = NamespaceType.parse(type)
        return cls._adopt(os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC), kind)

    @classmethod
    def _adopt(cls, fd: int, kind: NamespaceType | None = None) -> Self:
        """A handle of `fd`, which this takes also on error."""
        try:
            return cls(fd, kind)
        except BaseException:
            os.close(fd)
            raise

    def _of_type(self, wanted: "NamespaceType | None", target: str) -> Self:
        if wanted is not None and wanted is not self.type:
            self.close()
            raise NotANamespace(target, f"a {self.type} namespace, not {wanted}")
        return self

    @property
    def id(self) -> NamespaceId:
        """Which namespace it is, as read from the descriptor."""
        if self._unique is None and self._fd >= 0 and features().namespace_id:
            self._unique = nsfs.unique_id(self._fd)
        return NamespaceId(self.type, self.inode, self.device, self._unique)

    @property
    def closed(self) -> bool:
        """Whether the handle was closed."""
        return self._fd < 0

    def fileno(self) -> int:
        """The descriptor, still owned by the handle; ValueError after close()."""
        if self._fd < 0:
            raise ValueError(f"{self.type} namespace handle is closed")
        return self._fd

    def owner(self) -> "Namespace":
        """The user namespace that owns this one.  PermissionDenied: it is out of the caller's view."""
        return self._related(nsfs.owning_user_namespace, "owner", NamespaceType.USER)

    def parent(self) -> "Namespace":
        """The parent of a user or pid namespace.  PermissionDenied: it is the top one, or out of the caller's view."""
        return self._related(nsfs.parent, "parent", self.type)

    def owner_uid(self) -> int:
        """The uid that owns it: that made the user namespace it is, or the one that owns it."""
        if self.type is NamespaceType.USER:
            return nsfs.owner_uid(self.fileno())
        with self.owner() as user:
            return nsfs.owner_uid(user.fileno())

    def _related(self, ask: Callable[[int], int], what: str, kind: NamespaceType) -> "Namespace":
        try:
            return Namespace._adopt(ask(self.fileno()), kind)
        except PermissionError as error:
            raise PermissionDenied(f"the {what} of {self}", "it has none that can be seen from here") from error
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise InvalidType(f"{self} has no {what}: only user and pid namespaces have one") from error
            raise

    def detach(self) -> int:
        """Give the descriptor to the caller; the handle counts as closed."""
        fd = self.fileno()
        self._fd = -1
        return fd

    def close(self) -> None:
        """Close the descriptor, if it is owned.  Twice is harmless."""
        fd, self._fd = self._fd, -1
        if fd >= 0 and self._owned:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # An __init__ that failed leaves no descriptor, perhaps not even the slots.
        if getattr(self, "_fd", -1) >= 0 and self._owned:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Namespace):
            return NotImplemented
        return (self.device, self.inode) == (other.device, other.inode)

    def __hash__(self) -> int:
        return hash((self.device, self.inode))

    def __str__(self) -> str:
        return f"{self.type}:[{self.inode}]"

    def __repr__(self) -> str:
        return f"<Namespace {self} {'closed' if self._fd < 0 else f'fd={self._fd}'}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Namespace cannot be pickled: it is a descriptor of this process; send it with a Conduit")


_KERNEL_RULE = "the kernel wants a process of the same user, or CAP_SYS_PTRACE; the broker may be allowed to"

NAME_RULE = "letters, digits, '_', '.' and '-', at most 255, not '.' or '..'"
_NAME_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")


def is_name(text: str) -> bool:
    """Whether `text` can name a namespace: one harmless path component."""
    return 0 < len(text) <= 255 and text not in (".", "..") and _NAME_CHARACTERS.issuperset(text)


def pin(target: str, pid: int, tid: int | None = None) -> Process:
    """Pin a process or thread (the caller's to close); raises NoSuchTarget with what is wrong with the number."""
    try:
        return Process.open(pid) if tid is None else Process.open_thread(pid, tid)
    except ProcessLookupError as error:
        reason = "there is no such process" if tid is None else f"process {pid} has no thread {tid}"
        raise NoSuchTarget(target, reason) from error
    except (OSError, OverflowError) as error:
        if tid is None and os.path.exists(f"/proc/{pid}"):
            raise NoSuchTarget(target, f"{pid} is a thread, not a process: write tid:PROCESS/{pid}") from error
        raise NoSuchTarget(target, "that can be no process's number") from error


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


def _open_found(found: int) -> int:
    fd = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        free = reopen_namespace(fd)
    except OSError:
        # An older kernel, or no right to: then the descriptor keeps busy the mount through which it was opened.
        return fd
    os.close(fd)
    return free


def _type_of(fd: int) -> NamespaceType:
    flag = nsfs.namespace_type(fd)
    if flag not in _TYPES:
        raise NotANamespace(f"fd {fd}", f"a namespace of an unknown type {flag:#x}")
    return _TYPES[flag]


def _what(facts: os.stat_result) -> str:
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
