"""Descriptions of namespaces, as the methods List and Watch send them."""

import enum

from msgspec import Struct

from nsbroker.model.identity import NamespaceType


class ReferenceKind(enum.StrEnum):
    """The kinds of things, other than the processes in it, that keep a namespace alive."""

    THREAD = "thread"
    """A thread in another namespace than its process; `number` is the thread's number."""
    CHILDREN = "children"
    """A process whose future children will be in the namespace."""
    DESCRIPTOR = "descriptor"
    """A file descriptor of a process; `number` is the descriptor.  If the broker holds the namespace, `path` is name:NAME."""
    SOCKET = "socket"
    """A socket in the namespace; `number` is its descriptor in the process that has it open."""
    MOUNT = "mount"
    """A bind mount: `path` is the file, as the process `pid` sees it; without `pid`, as the broker sees it."""
    NAMESPACE = "namespace"
    """Another namespace, of which this one is the parent or the owner; `path` is the id of the other one."""


class Reference(Struct, omit_defaults=True, frozen=True):
    """One thing, other than a process in it, that keeps a namespace alive."""

    kind: ReferenceKind
    pid: int | None = None
    number: int | None = None
    path: str | None = None


class LeadingProcess(Struct, frozen=True):
    """The process with the lowest number in a namespace.

    If `uid` is missing, the process has ended since, and `command` is only its name.
    """

    pid: int
    command: str
    uid: int | None = None


class NamespaceDescription(Struct, rename="camel", omit_defaults=True):
    """A namespace, described for one caller: counts and names cover only what gives that caller access to the namespace."""

    type: NamespaceType
    inode: int
    device: int
    processes: int
    id: int | None = None
    """The kernel's 64-bit id of the namespace, which is never used again (Linux 6.18)."""
    owner: int | None = None
    """The inode of the user namespace that owns the namespace."""
    owner_uid: int | None = None
    """The uid that created that user namespace; of a user namespace: the uid that created the namespace itself."""
    parent: int | None = None
    """The inode of the parent namespace.  Only pid and user namespaces have one."""
    process: LeadingProcess | None = None
    references: list[Reference] | None = None
    containers: list[str] | None = None
    units: list[str] | None = None


class WatchEvent(enum.StrEnum):
    """What an event of Watch reports."""

    PRESENT = "present"
    """The namespace existed when the watch began."""
    READY = "ready"
    """All namespaces that existed when the watch began have been sent."""
    ADDED = "added"
    """The namespace is new."""
    GONE = "gone"
    """The namespace is gone."""
    MISSED = "missed"
    """The caller read too slowly, so it was not sent every change: a namespace came and went, or changed more than once."""
