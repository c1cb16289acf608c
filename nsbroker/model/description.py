"""What List and Watch tell: descriptions of namespaces."""

import enum

from msgspec import Struct

from nsbroker.model.identity import NamespaceType


class HolderKind(enum.StrEnum):
    """What keeps a namespace alive beside the processes that are in it."""

    THREAD = "thread"
    """A thread that is not where its process is: `number`."""
    CHILDREN = "children"
    """A process whose children to come will be in it."""
    DESCRIPTOR = "descriptor"
    """An open file of a process: `number`.  Of the broker itself, for what it holds under a name: `path` is name:NAME."""
    SOCKET = "socket"
    """A socket that a process has open (`number`), which lives in it."""
    MOUNT = "mount"
    """A file that it is bound to: `path`, as the process `pid` sees it; without `pid`, as the broker does."""
    NAMESPACE = "namespace"
    """A namespace that it is the parent or the owner of: `path` is that one's id."""


class Holder(Struct, omit_defaults=True, frozen=True):
    """One thing that keeps a namespace alive."""

    kind: HolderKind
    pid: int | None = None
    number: int | None = None
    path: str | None = None


class LeadingProcess(Struct, frozen=True):
    """The process with the lowest number of those in a namespace.  Without `uid` it has ended since, and `command` is its
    name alone.
    """

    pid: int
    command: str
    uid: int | None = None


class NamespaceDescription(Struct, rename="camel", omit_defaults=True):
    """A namespace, as far as the caller may know of it: counted and named are processes that it may open."""

    type: NamespaceType
    inode: int
    device: int
    processes: int
    id: int | None = None
    """The kernel's 64-bit id (Linux 6.18)."""
    owner: int | None = None
    """The inode of the user namespace that owns it."""
    owner_uid: int | None = None
    parent: int | None = None
    """The inode of the parent, of a pid or user namespace."""
    process: LeadingProcess | None = None
    holders: list[Holder] | None = None
    containers: list[str] | None = None
    units: list[str] | None = None


class WatchEvent(enum.StrEnum):
    """What Watch tells."""

    PRESENT = "present"
    """Was there when the watch began."""
    READY = "ready"
    """Everything that was there has been told."""
    ADDED = "added"
    GONE = "gone"
    MISSED = "missed"
    """The caller read too slowly: something came and went, or changed more than once, unseen."""
