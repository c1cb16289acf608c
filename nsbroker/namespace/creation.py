"""Create namespaces, and name network namespaces as `ip netns` does."""

import contextlib
import errno
import os
import threading
from pathlib import Path

from nsbroker.errors import InvalidTarget, InvalidType, NameTaken, NotANamespace, NsbrokerError, PermissionDenied
from nsbroker.linux import mounts, nsfs, rtnetlink
from nsbroker.linux.capabilities import CAP_SYS_ADMIN, use_only
from nsbroker.linux.credentials import Credentials
from nsbroker.linux.descriptors import close_and_clear
from nsbroker.linux.setns import unshare
from nsbroker.model.identity import NAME_RULE, NamespaceType, is_name
from nsbroker.namespace.opening import NAME_DIRECTORIES, find_name

_DIRECTORY = Path(NAME_DIRECTORIES[0])

_ADVICE = {
    NamespaceType.USER: "the kernel creates one only for a process with a single thread: run `unshare --user`, then use from_pid",
    NamespaceType.PID: "it exists only once its first process runs: run `unshare --pid --fork`, then use from_pid",
}


def check_creatable(ns_type: NamespaceType) -> None:
    """Check that a thread can create a namespace of this type.  Raises InvalidType, which says what to do instead."""
    if ns_type in _ADVICE:
        raise InvalidType(f"a {ns_type} namespace cannot be created here: {_ADVICE[ns_type]}")


def create(ns_type: NamespaceType, user: Credentials | None = None, *, up: bool = False) -> int:
    """Create a namespace, and return an fd of it (the caller's to close, close-on-exec).

    It is created on a thread of its own, which then ends, so that no other thread changes its namespace.  The kernel counts
    the namespace against the limits of `user` (/proc/sys/user/max_net_namespaces and the like, namespaces(7)); by default
    this is the user of this process.  With `up`, the interface lo in the new network is set up.

    Raises InvalidType for user and pid, and for `up` with another type than net; PermissionDenied without CAP_SYS_ADMIN, or with
    `up` without CAP_NET_ADMIN; OSError (ENOSPC: there are too many).
    """
    check_creatable(ns_type)
    if up and ns_type is not NamespaceType.NET:
        raise InvalidType(f"a {ns_type} namespace has no interface lo that could be set up: only net namespaces have")
    created: list[int] = []
    failed: list[BaseException] = []
    given_up = threading.Event()

    def run() -> None:
        try:
            if user is None:
                unshare(ns_type.flag)
            else:
                with user:
                    use_only(CAP_SYS_ADMIN)
                    unshare(ns_type.flag)
            if up:
                with rtnetlink.connect() as sock:
                    rtnetlink.set_up(sock, "lo")
            link = "time_for_children" if ns_type is NamespaceType.TIME else ns_type
            created.append(os.open(f"/proc/thread-self/ns/{link}", os.O_RDONLY | os.O_CLOEXEC))
        except BaseException as error:
            failed.append(error)
        # Whichever of the two threads is later closes it.
        if given_up.is_set():
            close_and_clear(created)

    try:
        thread = threading.Thread(target=run, name=f"new {ns_type} namespace")
        thread.start()
        thread.join()
        if failed:
            # An error to which a frame on its way still refers stays in memory until a full garbage collection.
            raise failed.pop()
        return created[0]
    except BaseException as error:
        # When a signal handler raised it, the thread may still run.
        given_up.set()
        close_and_clear(created)
        if not isinstance(error, PermissionError):
            raise
        needed = "CAP_SYS_ADMIN, and CAP_NET_ADMIN to set lo up" if up else "CAP_SYS_ADMIN"
        raise PermissionDenied(f"create a {ns_type} namespace", f"this takes {needed}") from error


def give_name(fd: int, ns_type: NamespaceType, name: str) -> None:
    """Bind the namespace `fd` (borrowed) to a file in /run/netns, which keeps it alive, as `ip netns add` does.

    If this fails, it leaves no file behind.  Raises InvalidType for other types than net, InvalidTarget, NameTaken,
    PermissionDenied.
    """
    if ns_type is not NamespaceType.NET:
        raise InvalidType(f"a {ns_type} namespace cannot get a name: `ip netns` would take it for a network namespace")
    if not is_name(name):
        raise InvalidTarget(f"{name[:80]!r} is no name of a namespace: {NAME_RULE}")
    path = _DIRECTORY / name
    try:
        _prepare_directory()
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0))
    except OSError as error:
        raise _name_error(error, name) from error
    try:
        mounts.bind(f"/proc/self/fd/{fd}", str(path))
    except OSError as error:
        path.unlink()
        raise _name_error(error, name) from error


def take_name_away(name: str) -> None:
    """Remove a name that `give_name` or `ip netns add` made.

    Raises InvalidTarget, NoSuchTarget, NotANamespace, PermissionDenied.
    """
    target = f"name:{name}"
    found = find_name(name, target)
    try:
        is_namespace, path = nsfs.is_namespace(found), os.readlink(f"/proc/self/fd/{found}")
    finally:
        os.close(found)
    if not is_namespace:
        raise NotANamespace(target, f"{path} is no namespace: it is left alone")
    try:
        mounts.unmount(path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    except OSError as error:
        raise _name_error(error, name) from error


def _prepare_directory() -> None:
    """Make /run/netns a shared mount, as `ip netns` does.

    Then a name that is given here appears in all mount namespaces, and can be removed in any of them.
    """
    _DIRECTORY.mkdir(mode=0o755, exist_ok=True)
    try:
        mounts.make_shared(str(_DIRECTORY))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # It is not a mount yet.
        mounts.bind(str(_DIRECTORY), str(_DIRECTORY), recursive=True)
        mounts.make_shared(str(_DIRECTORY))


def _name_error(error: OSError, name: str) -> NsbrokerError:
    if isinstance(error, FileExistsError):
        return NameTaken(name)
    if isinstance(error, PermissionError):
        return PermissionDenied(f"change the name {name}", "this takes write access to /run/netns, and CAP_SYS_ADMIN")
    return NsbrokerError(f"cannot change the name {name}: {error.strerror or error}")
