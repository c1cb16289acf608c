"""Moving the calling thread into a namespace for good, by a bare descriptor."""

import os

from nsbroker.errors import NotANamespace
from nsbroker.inside.visit import check_enterable, move
from nsbroker.linux import nsfs
from nsbroker.model.identity import NamespaceType


def setns(fd: int, type: str) -> None:
    """Move the calling thread for good into the namespace `fd` (borrowed), which must be of `type`.

    This is the system call setns, with checks.  Prefer `call`, which switches back.  Do not move a thread that runs other code
    as well, such as a thread of a pool or of an event loop.

    Raises NotANamespace when `fd` is something else or a namespace of another type, EnterFailed (also for user, pid and time
    namespaces, which no thread can enter), InvalidType, ValueError if `fd` is not open.
    """
    ns_type = NamespaceType.parse(type)
    try:
        is_namespace = nsfs.is_namespace(fd)
    except (OSError, OverflowError) as error:
        raise ValueError(f"fd {fd} is not open") from error
    if not is_namespace:
        raise NotANamespace(f"fd {fd}", f"{os.readlink(f'/proc/self/fd/{fd}')} is no namespace")
    found = NamespaceType.of_flag(nsfs.namespace_type(fd))
    if found is not ns_type:
        raise NotANamespace(f"fd {fd}", f"a {found} namespace, not {ns_type}")
    check_enterable(ns_type)
    move(fd, ns_type)
