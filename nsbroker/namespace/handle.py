"""`Namespace`, the handle of an open namespace: an nsfs file descriptor, with the type and identity of the namespace."""

import errno
import os
import warnings
from collections.abc import Callable
from typing import NoReturn, Self, TypeVar

from nsbroker import inside
from nsbroker.errors import InvalidType, NoSuchTarget, NotANamespace, PermissionDenied
from nsbroker.linux import nsfs
from nsbroker.linux.descriptors import close_and_clear, is_open
from nsbroker.linux.features import features
from nsbroker.linux.process import Process
from nsbroker.model.has_fileno import HasFileno
from nsbroker.model.identity import Expectation, NamespaceId, NamespaceType, format_id
from nsbroker.namespace import creation
from nsbroker.namespace.opening import (
    check_number,
    describe,
    find_file,
    find_named_file,
    open_found,
    open_in,
    pin,
    read_type,
)

T = TypeVar("T")


class Namespace:
    """An open namespace.  The namespace exists at least as long as the handle is open.

    Close the handle, or use it as a context manager; a handle that is forgotten causes a ResourceWarning.  After `close()`
    its `type` and `id` can still be read, everything else raises ValueError.  Two handles are equal if they refer to the
    same namespace, even though their descriptors differ.  There is no handle of no namespace: use None, and `closed` says
    whether a handle is still open.
    """

    __slots__ = ("__weakref__", "_fd", "_file", "_owned", "_path", "_unique", "device", "inode", "type")

    type: NamespaceType
    device: int
    """st_dev of the descriptor, which is the same for all namespaces of a host."""
    inode: int
    """st_ino of the descriptor, which identifies the namespace as long as it exists."""

    def __init__(self, fd: int, ns_type: NamespaceType | None = None, *, owned: bool = True) -> None:
        """Use `from_fd` and the other constructors instead.

        Takes `fd` (unless `owned` is false) only when it returns: if it raises, `fd` stays open and the caller's.  `ns_type`
        is not checked; pass it only if the kernel guarantees it.
        """
        self._fd = -1
        self._file: HasFileno | None = None
        self._path = ""
        facts = os.fstat(fd)
        if facts.st_dev != nsfs.device():
            raise NotANamespace(f"fd {fd}", f"a {describe(facts)}, not a namespace")
        self.type = ns_type or read_type(fd)
        self.device = facts.st_dev
        self.inode = facts.st_ino
        self._unique: int | None = None
        self._owned = owned
        self._fd = fd

    @classmethod
    def from_fd(cls, fd: int, *, owned: bool, type: str | None = None, verify: bool = True) -> Self:
        """Return a handle of the open file descriptor `fd`.

        If `owned` is true, the handle takes `fd`, makes it close-on-exec and closes it; it is also closed if this raises.
        If `owned` is false, `fd` stays the caller's, who must keep it open as long as the handle is in use.  `type` is the
        type that the namespace should have.  It is checked; with `verify=False` it is trusted, which saves an ioctl.
        Raises NotANamespace; ValueError if `fd` is not open.
        """
        fds = [fd] if owned else []
        try:
            if not is_open(fd):
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
        return handle._check_type(type, f"fd {fd}")

    @classmethod
    def from_file(cls, file: HasFileno, *, type: str | None = None, verify: bool = True) -> Self:
        """Return a handle of the open `file`, such as `open("/proc/self/ns/net")`, which keeps the file object alive.

        The descriptor is borrowed: it stays the file's, and closing the handle does not close the file.  Once the file is
        closed, using the handle raises ValueError.  `type` and `verify` are as in `from_fd`.  Raises NotANamespace; ValueError
        if the file is closed.
        """
        handle = cls.from_fd(file.fileno(), owned=False, type=type, verify=verify)
        handle._file = file
        return handle

    @classmethod
    def take(cls, fds: list[int], ns_type: NamespaceType | None = None) -> Self:
        """Move the first descriptor of `fds` into a new handle.  On any error it stays in `fds`.

        A signal handler may raise an exception between any two lines.  Even then, the descriptor belongs to either the
        handle or the list.  `ns_type` is not checked.  Raises NotANamespace, OSError.
        """
        # The handle is created empty before it takes the descriptor, so that the code below can tell whether it has it.
        handle = cls.__new__(cls)
        try:
            cls.__init__(handle, fds[0], ns_type)
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
        """Open a namespace of the process `pid`, without the broker.  This takes PTRACE_MODE_READ access (ptrace(2)).

        Raises NoSuchTarget if there is no such process, it has ended, or `pid` is the number of a thread; InvalidTarget if
        `pid` is no number; PermissionDenied, TargetChanged, InvalidType.
        """
        check_number(pid)
        return cls._from_number(f"pid:{pid}", pid, None, type, expect)

    @classmethod
    def from_thread(cls, pid: int, tid: int, type: str, *, expect: Expectation | None = None) -> Self:
        """Open a namespace of the thread `tid` of the process `pid`, without the broker.  Raises the errors of `from_pid`."""
        check_number(pid)
        check_number(tid)
        return cls._from_number(f"tid:{pid}/{tid}", pid, tid, type, expect)

    @classmethod
    def _from_number(cls, target: str, pid: int, tid: int | None, type: str, expect: Expectation | None) -> Self:
        ns_type = NamespaceType.parse(type)
        with pin(target, pid, tid) as process:
            handle = cls.from_process(process, ns_type, target)
            try:
                if expect is not None:
                    expect.check_process(process.start_time(), target)
                    expect.check_namespace(handle.id, target)
            except ProcessLookupError as error:
                handle.close()
                raise NoSuchTarget(target, "the process has ended") from error
            except BaseException:
                handle.close()
                raise
        return handle

    @classmethod
    def from_process(cls, process: Process, type: NamespaceType, target: str) -> Self:
        """Open a namespace of the pinned `process` (borrowed); errors call it `target`.  Raises NoSuchTarget, PermissionDenied."""
        return cls._adopt(open_in(process, type, target), type)

    @classmethod
    def from_path(
        cls, path: str | os.PathLike[str], type: str | None = None, *, verify: bool = True, expect: Expectation | None = None
    ) -> Self:
        """Open the namespace at `path`, which is a bind mount or a link in /proc/PID/ns.

        If `type` is given, the namespace must have that type; with `verify=False` it is trusted, which saves an ioctl.  Raises
        NoSuchTarget, NotANamespace, PermissionDenied, TargetChanged, InvalidType.
        """
        text, ns_type = os.fspath(path), None if type is None else NamespaceType.parse(type)
        target = f"path:{text}"
        return cls._from_found(find_file(path, target), text, target, ns_type, verify, expect)

    @classmethod
    def from_name(cls, name: str, type: str | None = None, *, verify: bool = True, expect: Expectation | None = None) -> Self:
        """Open the namespace that `ip netns` knows as `name`.

        `type` and `verify` are as in `from_path`.  Raises InvalidTarget if `name` cannot be a name, and the errors of
        `from_path`.
        """
        ns_type = None if type is None else NamespaceType.parse(type)
        target = f"name:{name}"
        return cls._from_found(*find_named_file(name, target), target, ns_type, verify, expect)

    @classmethod
    def _from_found(
        cls, found: int, path: str, target: str, ns_type: NamespaceType | None, verify: bool, expect: Expectation | None
    ) -> Self:
        handle = cls._adopt(open_found(found, target), None if verify else ns_type)._check_type(ns_type, target)
        handle._path = path
        try:
            if expect is not None:
                expect.check_process(None, target)
                expect.check_namespace(handle.id, target)
        except BaseException:
            handle.close()
            raise
        return handle

    @classmethod
    def from_found(cls, found: int, target: str) -> Self:
        """Open the namespace that the O_PATH descriptor `found` refers to.  Takes `found`, also on error.  Raises NotANamespace."""
        return cls._adopt(open_found(found, target))

    @classmethod
    def current(cls, type: str) -> Self:
        """Open a namespace of the calling thread, which may differ from that of the main thread.  Raises InvalidType."""
        ns_type = NamespaceType.parse(type)
        return cls._adopt(os.open(f"/proc/thread-self/ns/{ns_type}", os.O_RDONLY | os.O_CLOEXEC), ns_type)

    @classmethod
    def _adopt(cls, fd: int, ns_type: NamespaceType | None = None) -> Self:
        """Return a handle that owns `fd`.  On error, `fd` is closed."""
        handle = None
        try:
            # As in `take`: whenever a signal handler raises, the code below can tell who has the descriptor.
            handle = cls.__new__(cls)
            cls.__init__(handle, fd, ns_type)
        except BaseException:
            if getattr(handle, "_fd", -1) < 0:
                os.close(fd)
            elif handle is not None:
                handle.close()
            raise
        return handle

    @classmethod
    def create(cls, type: str, *, name: str | None = None, up: bool = False) -> Self:
        """Create a namespace without entering it.  It exists as long as this handle is open, or as long as it has `name`.

        `name` is a name as `ip netns add` gives it to a net namespace; it lasts until `delete_named`.  With `up`, the interface
        lo of a net namespace is set up.  User and pid namespaces cannot be created in this way: InvalidType says what to do
        instead.  Raises PermissionDenied without CAP_SYS_ADMIN (and CAP_NET_ADMIN for `up`), InvalidTarget and NameTaken for
        the name.
        """
        ns_type = NamespaceType.parse(type)
        handle = cls._adopt(creation.create(ns_type, up=up), ns_type)
        try:
            if name is not None:
                creation.give_name(handle.fileno(), ns_type, name)
        except BaseException:
            handle.close()
            raise
        return handle

    @staticmethod
    def delete_named(name: str) -> None:
        """Remove the name of a net namespace, as `ip netns del` does.  The namespace exists on while something else uses it.

        Raises InvalidTarget, NoSuchTarget, NotANamespace, PermissionDenied.
        """
        creation.take_name_away(name)

    def call(self, function: Callable[..., T], *args: object, pass_host: bool = False) -> T:
        """Run `function(*args)` inside this namespace, on a thread of its own.  `nsbroker.inside.call` has the details.

        With `pass_host`, it runs `function(host, *args)`: `host` is a handle of the caller's own namespace of this type, which
        is open until `call` returns.
        """
        if not pass_host:
            return inside.call([self], function, *args)
        with Namespace.current(self.type) as host:
            return inside.call([self], function, host, *args)

    def set(self) -> None:
        """Move the calling thread into this namespace permanently.  Prefer `call`, which switches back.

        Do not move a thread that runs other code as well, such as a thread of a pool or of an event loop.  Raises
        EnterFailed.
        """
        inside.enter(self)

    def _check_type(self, type: str | None, target: str) -> Self:
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
        """The id of the namespace, as read from the descriptor."""
        if self._unique is None and self._fd >= 0 and features().namespace_id:
            self._unique = nsfs.unique_id(self._fd)
        return NamespaceId(self.type, self.inode, self.device, self._unique)

    @property
    def closed(self) -> bool:
        """Whether the handle is closed."""
        return self._fd < 0

    def fileno(self) -> int:
        """Return the descriptor, which the handle still owns (or borrows).  Raises ValueError after close()."""
        if self._fd < 0:
            raise ValueError(f"{self.type} namespace handle is closed")
        # A closed file raises ValueError itself, but a closed socket does not.
        if self._file is not None and self._file.fileno() != self._fd:
            raise ValueError(f"the file of this {self.type} namespace handle is closed")
        return self._fd

    @property
    def path(self) -> str:
        """The path that `from_path` or `from_name` opened; for every other handle /proc/self/fd/N.

        The latter is valid only in this process and while the handle is open; after `close` it raises ValueError.
        """
        return self._path or f"/proc/self/fd/{self.fileno()}"

    def owner(self) -> "Namespace":
        """Open the user namespace that owns this one.  Raises PermissionDenied if the caller cannot see it."""
        return self._open_relative(nsfs.owning_user_namespace, "owner", NamespaceType.USER)

    def parent(self) -> "Namespace":
        """Open the parent of this user or pid namespace.

        Raises PermissionDenied if this is the topmost namespace or the caller cannot see the parent, InvalidType for other
        types.
        """
        return self._open_relative(nsfs.parent, "parent", self.type)

    def owner_uid(self) -> int:
        """Return the uid that created this user namespace; for other types, the user namespace that owns this one.

        Raises the errors of `owner`.
        """
        if self.type is NamespaceType.USER:
            return nsfs.owner_uid(self.fileno())
        with self.owner() as user:
            return nsfs.owner_uid(user.fileno())

    def _open_relative(self, open_fd: Callable[[int], int], what: str, ns_type: NamespaceType) -> "Namespace":
        try:
            return Namespace._adopt(open_fd(self.fileno()), ns_type)
        except PermissionError as error:
            raise PermissionDenied(f"open the {what} of {self}", "it has none that can be seen from here") from error
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise InvalidType(f"{self} has no {what}: only user and pid namespaces have a parent") from error
            raise

    def detach(self) -> int:
        """Return the descriptor, which is now the caller's to close; the handle counts as closed.

        A descriptor that the handle borrowed stays its owner's.
        """
        fd = self.fileno()
        self._fd = -1
        return fd

    def close(self) -> None:
        """Close the descriptor, if the handle owns it.  Closing twice does nothing."""
        fd, self._fd = self._fd, -1
        self._file = None
        if fd >= 0 and self._owned:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # If __init__ failed, there is no descriptor, and perhaps the slots are not even set.
        if getattr(self, "_fd", -1) >= 0 and self._owned:
            try:
                warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            finally:
                # Close it even where warnings are errors, and warn() raises.
                self.close()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Namespace):
            return NotImplemented
        return (self.device, self.inode) == (other.device, other.inode)

    def __hash__(self) -> int:
        return hash((self.device, self.inode))

    def __str__(self) -> str:
        return format_id(self.type, self.inode)

    def __repr__(self) -> str:
        return f"<Namespace {self} {'closed' if self._fd < 0 else f'device={self.device} fd={self._fd}'}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Namespace cannot be pickled, because it has a descriptor of this process: send it with a Conduit")
