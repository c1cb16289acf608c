"""Making namespaces, and giving them names as `ip netns` does."""

import contextlib
import errno
import os
import threading
from pathlib import Path

from nsbroker.errors import InvalidTarget, InvalidType, NameTaken, NotANamespace, NsbrokerError, PermissionDenied
from nsbroker.linux import mounts, nsfs
from nsbroker.linux.capabilities import CAP_SYS_ADMIN, use_only
from nsbroker.linux.credentials import Credentials
from nsbroker.linux.setns import unshare
from nsbroker.model.identity import NAME_RULE, NamespaceType, is_name
from nsbroker.namespace.opening import NAME_DIRECTORIES, find_name

_DIRECTORY = Path(NAME_DIRECTORIES[0])

_ELSE = {
    NamespaceType.USER: "the kernel makes one only for a process without threads: run `unshare --user`, then use from_pid",
    NamespaceType.PID: "it comes to life with its first process only: run `unshare --pid --fork`, then use from_pid",
}


def see_makeable(kind: NamespaceType) -> None:
    """Raises InvalidType for a type that cannot be made so, with how else."""
    if kind in _ELSE:
        raise InvalidType(f"a {kind} namespace cannot be made here: {_ELSE[kind]}")


def create(kind: NamespaceType, user: Credentials | None = None) -> int:
    """An fd (the caller's, close-on-exec) of a new namespace, made on a thread that ends with it.

    `user` is whom the kernel counts it to (user.max_net_namespaces and the like in namespaces(7)), by default this process's
    own.  Raises InvalidType for user and pid, PermissionDenied without CAP_SYS_ADMIN, OSError (ENOSPC: too many of them).
    """
    see_makeable(kind)
    made: list[int] = []
    failed: list[OSError] = []

    def make() -> None:
        try:
            if user is None:
                unshare(kind.flag)
            else:
                with user:
                    use_only(CAP_SYS_ADMIN)
                    unshare(kind.flag)
            link = "time_for_children" if kind is NamespaceType.TIME else kind
            made.append(os.open(f"/proc/thread-self/ns/{link}", os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=make, name=f"new {kind} namespace")
    thread.start()
    thread.join()
    for error in failed:
        if isinstance(error, PermissionError):
            raise PermissionDenied(f"a new {kind} namespace", "making one takes CAP_SYS_ADMIN") from error
        raise error
    return made[0]


def give_name(fd: int, kind: NamespaceType, name: str) -> None:
    """Bind the namespace `fd` (borrowed) to a file, which keeps it alive.  Leaves nothing behind when it fails.

    Raises InvalidType for other types than net, InvalidTarget, NameTaken, PermissionDenied.
    """
    if kind is not NamespaceType.NET:
        raise InvalidType(f"a {kind} namespace gets no name: `ip netns` would take it for a network")
    if not is_name(name):
        raise InvalidTarget(f"{name[:80]!r} is no name of a namespace: {NAME_RULE}")
    path = _DIRECTORY / name
    try:
        _prepare_directory()
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0))
    except OSError as error:
        raise _refused(error, name) from error
    try:
        mounts.bind(f"/proc/self/fd/{fd}", str(path))
    except OSError as error:
        path.unlink()
        raise _refused(error, name) from error


def take_name_away(name: str) -> None:
    """Undo `give_name`, or `ip netns add`.  Raises InvalidTarget, NoSuchTarget, NotANamespace, PermissionDenied."""
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
        raise _refused(error, name) from error


def _prepare_directory() -> None:
    """As `ip netns` does: a mount of its own that is shared, so that a name given here is seen, and can be taken away,
    in all mount namespaces.
    """
    _DIRECTORY.mkdir(mode=0o755, exist_ok=True)
    try:
        mounts.make_shared(str(_DIRECTORY))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        mounts.bind(str(_DIRECTORY), str(_DIRECTORY), recursive=True)
        mounts.make_shared(str(_DIRECTORY))


def _refused(error: OSError, name: str) -> NsbrokerError:
    if isinstance(error, FileExistsError):
        return NameTaken(name)
    if isinstance(error, PermissionError):
        return PermissionDenied(f"the name {name}", "names take write access to /run/netns, and CAP_SYS_ADMIN")
    return NsbrokerError(f"the name {name}: {error.strerror or error}")
