"""The handle: `Namespace`, an owned nsfs file descriptor whose type and identity were read from that descriptor."""

import errno
import os
import warnings
from collections.abc import Callable
from typing import NoReturn, Self, TypeVar

from nsbroker import inside
from nsbroker.errors import InvalidTarget, InvalidType, NoSuchTarget, NotANamespace, PermissionDenied
from nsbroker.linux import nsfs
from nsbroker.linux.ancillary import close_and_clear
from nsbroker.linux.features import features
from nsbroker.linux.process import Process
from nsbroker.model.identity import Expectation, NamespaceId, NamespaceType
from nsbroker.namespace import creation
from nsbroker.namespace.opening import describe, find_file, find_name, open_found, open_in, pin

T = TypeVar("T")


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
            raise NotANamespace(f"fd {fd}", f"a {describe(facts)}, not a namespace")
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
        fds = [fd] if owned else []
        try:
            if not _is_open(fd):
                fds.clear()
                raise ValueError(f"fd {fd} is not open")
            wanted = None if type is None else NamespaceType.parse(type)
            trusted = None if verify else wanted
            if owned:
                os.set_inheritable(fd, False)
            handle = cls.take(fds, trusted) if owned else cls(fd, trusted, owned=False)
        except BaseException:
            close_and_clear(fds)
            raise
        return handle._of_type(type, f"fd {fd}")

    @classmethod
    def take(cls, fds: list[int], kind: NamespaceType | None = None) -> Self:
        """A handle of the first of `fds`, which leaves the list when the handle has it, and stays in it on any error.

        A signal handler may raise between any two lines: all the same either the handle or the list has the descriptor.
        `kind` as in `Namespace`.  Raises NotANamespace, OSError.
        """
        # The handle is there before it has anything, so that it can be asked afterwards whether it has.
        handle = cls.__new__(cls)
        try:
            cls.__init__(handle, fds[0], kind)
            fds.pop(0)
        except BaseException:
            fd = getattr(handle, "_fd", -1)
            if fd >= 0:
                handle.close()
                if fd in fds:
                    fds.remove(fd)
            raise
        return handle

    @classmethod
    def from_pid(cls, pid: int, type: str, *, expect: Expectation | None = None) -> Self:
        """The namespace that process `pid` is in.  Without the broker: needs PTRACE_MODE_READ over it (ptrace(2)).

        Raises NoSuchTarget (none, ended, or a thread's number), PermissionDenied, TargetChanged, InvalidType, InvalidTarget
        for what is no number.
        """
        _see_number(pid)
        return cls._from_number(f"pid:{pid}", pid, None, type, expect)

    @classmethod
    def from_thread(cls, pid: int, tid: int, type: str, *, expect: Expectation | None = None) -> Self:
        """The namespace that thread `tid` of process `pid` is in; as `from_pid`."""
        _see_number(pid)
        _see_number(tid)
        return cls._from_number(f"tid:{pid}/{tid}", pid, tid, type, expect)

    @classmethod
    def _from_number(cls, target: str, pid: int, tid: int | None, type: str, expect: Expectation | None) -> Self:
        kind = NamespaceType.parse(type)
        with pin(target, pid, tid) as process:
            handle = cls.from_process(process, kind, target)
            try:
                if expect is not None:
                    expect.see_process(process.start_time(), target)
                    expect.see_namespace(handle.id, target)
            except ProcessLookupError as error:
                handle.close()
                raise NoSuchTarget(target, "the process has ended") from error
            except BaseException:
                handle.close()
                raise
        return handle

    @classmethod
    def from_process(cls, process: Process, type: NamespaceType, target: str) -> Self:
        """The namespace that the pinned `process` (borrowed) is in; `target` names it in errors.  As `from_pid`."""
        return cls._adopt(open_in(process, type, target), type)

    @classmethod
    def from_path(cls, path: str | os.PathLike[str], type: str | None = None, *, expect: Expectation | None = None) -> Self:
        """The namespace that the file `path` is (a bind mount, or a link in /proc/PID/ns); `type` is checked.

        Raises NoSuchTarget, NotANamespace, PermissionDenied, TargetChanged, InvalidType.
        """
        target = f"path:{os.fspath(path)}"
        return cls._from_file(find_file(path, target), target, type, expect)

    @classmethod
    def from_name(cls, name: str, type: str | None = None, *, expect: Expectation | None = None) -> Self:
        """The namespace that `ip netns` knows as `name`, one path component; `type` is checked.

        Raises InvalidTarget for what can be no name, and as `from_path`.
        """
        target = f"name:{name}"
        return cls._from_file(find_name(name, target), target, type, expect)

    @classmethod
    def _from_file(cls, found: int, target: str, type: str | None, expect: Expectation | None) -> Self:
        handle = cls.from_found(found, target)._of_type(type, target)
        try:
            if expect is not None:
                expect.see_process(None, target)
                expect.see_namespace(handle.id, target)
        except BaseException:
            handle.close()
            raise
        return handle

    @classmethod
    def from_found(cls, found: int, target: str) -> Self:
        """The namespace that `found` is, a file opened with O_PATH, which this takes also on error.  Raises NotANamespace."""
        return cls._adopt(open_found(found, target))

    @classmethod
    def current(cls, type: str) -> Self:
        """The namespace that the calling thread is in, which need not be the main thread's.  Raises InvalidType."""
        kind = NamespaceType.parse(type)
        return cls._adopt(os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC), kind)

    @classmethod
    def _adopt(cls, fd: int, kind: NamespaceType | None = None) -> Self:
        """A handle of `fd`, which this takes also on error."""
        handle = None
        try:
            # As in `take`: who has the descriptor can be told whenever a signal handler raises.
            handle = cls.__new__(cls)
            cls.__init__(handle, fd, kind)
        except BaseException:
            if getattr(handle, "_fd", -1) < 0:
                os.close(fd)
            elif handle is not None:
                handle.close()
            raise
        return handle

    @classmethod
    def create(cls, type: str, *, name: str | None = None) -> Self:
        """A new namespace; the caller stays where it is.  It lives as long as something holds it: this handle, or `name`.

        `name` (of a net namespace) is as `ip netns add` makes it, and lasts until `delete_named`.  User and pid
        namespaces cannot be made so: InvalidType says how else.  Raises PermissionDenied without CAP_SYS_ADMIN,
        InvalidTarget and NameTaken for the name.
        """
        kind = NamespaceType.parse(type)
        handle = cls._adopt(creation.create(kind), kind)
        try:
            if name is not None:
                creation.give_name(handle.fileno(), kind, name)
        except BaseException:
            handle.close()
            raise
        return handle

    @staticmethod
    def delete_named(name: str) -> None:
        """Take away the name of a net namespace, as `ip netns del` does; it lives on while something else holds it.

        Raises InvalidTarget, NoSuchTarget, NotANamespace, PermissionDenied.
        """
        creation.take_name_away(name)

    def call(self, function: Callable[..., T], *args: object) -> T:
        """Run `function(*args)` inside this namespace, on a thread of its own: `nsbroker.inside.call` says all about it."""
        return inside.call([self], function, *args)

    def set(self) -> None:
        """Move the calling thread into this namespace, for good.  For those who mean it: `call` comes back by itself.

        A thread that serves others (of a pool, of an event loop) must not be moved.  Raises EnterFailed.
        """
        inside.enter(self)

    def _of_type(self, type: str | None, target: str) -> Self:
        try:
            wanted = None if type is None else NamespaceType.parse(type)
            if wanted is not None and wanted is not self.type:
                raise NotANamespace(target, f"a {self.type} namespace, not {wanted}")
        except BaseException:
            self.close()
            raise
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
        """The parent of a user or pid namespace; InvalidType for others.  PermissionDenied: it is the top one, or out of the
        caller's view.
        """
        return self._related(nsfs.parent, "parent", self.type)

    def owner_uid(self) -> int:
        """The uid that owns it: that made the user namespace it is, or the one that owns it.  Raises as `owner`."""
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
                raise InvalidType(f"{self} has no {what}: only user and pid namespaces have a parent") from error
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
            try:
                warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            finally:
                # Also where warnings are errors.
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


def _see_number(number: int) -> None:
    # True is 1 to Python, and process 1 is the last that should be meant by it.
    if isinstance(number, bool) or not isinstance(number, int):
        raise InvalidTarget(f"{number!r} is no process or thread number: write an int such as 4711")


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _type_of(fd: int) -> NamespaceType:
    try:
        return NamespaceType.of_flag(nsfs.namespace_type(fd))
    except InvalidType as error:
        raise NotANamespace(f"fd {fd}", str(error)) from error
