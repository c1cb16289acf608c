"""The peer of a connection, as the kernel describes it (SO_PEERCRED and friends).  Nothing comes from what the peer writes.

Uid, gid, groups and process are those at the time of connect(2): a socket that was passed on to another process still stands
for the process that connected.
"""

import functools
import os
import socket
from array import array
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from nsbroker.daemon.limits.users import ANONYMOUS, user_of
from nsbroker.errors import NoSuchTarget, NsbrokerError
from nsbroker.linux import nsfs, socket_options
from nsbroker.linux.capabilities import CAP_SYS_ADMIN
from nsbroker.linux.cgroup import systemd_path
from nsbroker.linux.credentials import Credentials
from nsbroker.linux.features import features
from nsbroker.linux.process import Process
from nsbroker.linux.user_namespace import maps_every_uid, overflow_uid
from nsbroker.model.identity import NamespaceType
from nsbroker.model.target import UNIT_SUFFIXES
from nsbroker.namespace import Namespace

NO_PEER_PIDFD = "before Linux 6.5 the kernel does not show the broker which process connected, only its user and groups"
"""Why some things are impossible without SO_PEERPIDFD: no peer has a unit, none is proved to be root, none can be `self`."""


# NGROUPS_MAX of setgroups(2).
_GROUPS_MAX = 65536


@functools.cache
def _own_inode(ns_type: NamespaceType) -> int:
    return os.stat(f"/proc/self/ns/{ns_type}").st_ino


class Maker(NamedTuple):
    """The credentials with which the broker makes something for a peer, so that it belongs to that user."""

    credentials: Credentials
    groups: Sequence[int]


class Owner(Protocol):
    """Somebody who can own processes and held namespaces."""

    def owns(self, uid: int) -> bool:
        """Return whether things of the user `uid` are theirs."""


class Workload(Protocol):
    """A container that the peer's process may be in (`engines.workload`)."""

    names: tuple[str, ...]
    """The targets by which rules can name it."""
    target: str
    """What records and people call it."""
    depth: int
    """How far inside it is: of two containers that a process is in, the inner one has the greater depth."""

    def contains(self, process: Process) -> bool:
        """Return whether the container is still there, and `process` (borrowed) is in it now.  Raises OSError."""

    def close(self) -> None:
        """Close what it holds."""


class Peer:
    """The peer of the connected socket `sock`, which is borrowed for as long as the peer is in use.

    Owns the fds that it opens for the peer's process and PID namespace; close it.

    `anonymous` is set when the uid proves nothing: it is the overflow uid, which stands for all unmapped uids, or it is uid 0
    without proof that the process has the rights of the host's root.  Only rules for everyone match an anonymous peer.
    `user` is the user to whom this peer's use of the broker is counted: see `limits.users`.
    """

    __slots__ = (
        "_groups_among",
        "_has_our_numbers",
        "_pid_namespace",
        "_pinned",
        "_process",
        "_sock",
        "_unit",
        "_workload",
        "anonymous",
        "gid",
        "identification",
        "pid",
        "uid",
        "user",
    )

    def __init__(self, sock: socket.socket) -> None:
        self.pid, self.uid, self.gid = socket_options.peer_credentials(sock)
        self._groups_among: tuple[frozenset[int], frozenset[int]] | None = None
        self._sock = sock
        self._pinned = False
        self._process: Process | None = None
        self._pid_namespace: Namespace | None = None
        self._has_our_numbers: bool | None = None
        self._unit: str | None = None
        self._workload: Workload | None = None
        self.identification: object = None
        """What `methods.identification` remembers of its last search for the container."""
        self.anonymous = self._is_anonymous()
        self.user = ANONYMOUS if self.anonymous else user_of(self.uid)

    def _is_anonymous(self) -> bool:
        if self.uid == 2**32 - 1 or (self.uid == overflow_uid() and not maps_every_uid()):
            return True
        return self.uid == 0 and not self._is_administrator()

    def _is_administrator(self) -> bool:
        """Return whether the peer, whose uid is 0, now has CAP_SYS_ADMIN effective and is in our own user namespace.

        The uid alone is not enough: root in a container without a user namespace has uid 0, too.
        """
        process = self.process()
        if process is None:
            return False
        try:
            # The order matters.  A process that enters a new user namespace gains all capabilities there, and cannot come back:
            # so we read the capabilities first, and the user namespace afterwards.
            capable = bool(process.effective_capabilities() & CAP_SYS_ADMIN)
            with Namespace.from_process(process, NamespaceType.USER, "self") as user:
                return capable and user.inode == _own_inode(NamespaceType.USER)
        except (NsbrokerError, OSError):
            return False

    def _open_namespace(self, ns_type: NamespaceType) -> Namespace:
        process = self.process()
        if process is not None:
            return Namespace.from_process(process, ns_type, "self")
        if features().peer_pidfd:
            raise NoSuchTarget("self", "the process that connected has ended")
        # Without SO_PEERPIDFD (before Linux 6.5) we only know the pid from the time of connect(2).  Another process of the same
        # uid may have that pid by now, and is then taken for the peer.
        with Process.open(self.pid) as guess:
            if guess.info().uids != (self.uid,) * 4:
                raise NoSuchTarget("self", "the process that connected has ended")
            return Namespace.from_process(guess, ns_type, "self")

    def groups(self) -> "array[int]":
        """Return the peer's gid and supplementary groups at the time when it connected, the same on every call.

        The kernel is asked each time.  Nothing keeps them: with user namespaces, one user can have a great many processes with
        65536 groups each.
        """
        groups = socket_options.peer_groups(self._sock)
        groups.append(self.gid)
        return groups

    def groups_among(self, gids: frozenset[int]) -> frozenset[int]:
        """Return those of `gids` that are groups of the peer.  The result is kept for further calls with the same object."""
        kept = self._groups_among
        if kept is None or kept[0] is not gids:
            kept = self._groups_among = gids, gids.intersection(self.groups())
        return kept[1]

    @property
    def credentials(self) -> Credentials:
        """The uid and the gid that the peer had when it connected."""
        return Credentials(self.uid, self.gid)

    @property
    def owner(self) -> Credentials:
        """To whom things belong that the broker makes for this peer: to the overflow uid when the peer is anonymous."""
        return Credentials(overflow_uid(), overflow_uid()) if self.anonymous else self.credentials

    def maker(self) -> Maker:
        """Return the credentials with which the broker makes something for this peer.  The groups are read as in `groups`."""
        # The gid comes last.  A thread that has it does not need it among its groups, where there may be no room for it.
        return Maker(self.owner, () if self.anonymous else self.groups()[:_GROUPS_MAX])

    def owns(self, uid: int) -> bool:
        """Return whether things of the user `uid` are the peer's own.  An anonymous peer owns nothing."""
        return not self.anonymous and self.uid == uid

    def process(self) -> Process | None:
        """Return the process that connected, pinned without a race (borrowed).

        None before Linux 6.5, which has no SO_PEERPIDFD, and when the process had ended before it could be pinned.
        """
        if not self._pinned:
            self._pinned = True
            if features().peer_pidfd:
                try:
                    self._process = Process.from_pidfd(socket_options.peer_pidfd(self._sock))
                except OSError:
                    self._process = None
        return self._process

    def unit(self) -> str | None:
        """Return the systemd unit that the process is in now; None when it has none, has ended, or cannot be pinned."""
        process = self.process()
        if process is None:
            return None
        try:
            return unit_of(process.cgroups())
        except OSError:
            return None

    def first_unit(self) -> str | None:
        """Return the unit that the process was in at the first call of this method: for audit records, not for rules."""
        if self._unit is None:
            self._unit = self.unit() or ""
        return self._unit or None

    def set_workload(self, workload: Workload | None) -> None:
        """Remember the container that the process is in (taken), in the place of the one before."""
        if self._workload is not None:
            self._workload.close()
        self._workload = workload

    @property
    def container(self) -> str:
        """The container that was found for the process last: for audit records, not for rules."""
        return "" if self._workload is None else self._workload.target

    def workload(self) -> Workload | None:
        """Return the container that was found for the process (borrowed), if it still holds now."""
        process = self.process()
        if self._workload is None or process is None:
            return None
        try:
            return self._workload if self._workload.contains(process) else None
        except OSError:
            return None

    def _get_pid_namespace(self) -> Namespace:
        """Return the peer's PID namespace (borrowed).  Raises NoSuchTarget when the peer's process has ended."""
        if self._pid_namespace is None:
            self._pid_namespace = self._open_namespace(NamespaceType.PID)
        return self._pid_namespace

    def number_of(self, pid: int) -> int | None:
        """Translate `pid` from our PID namespace to the peer's.

        Return None when the process has no pid there, or when this cannot be found out.
        """
        try:
            return pid if self.has_our_numbers() else nsfs.pid_in(self._get_pid_namespace().fileno(), pid) or None
        except (NsbrokerError, OSError):
            return None

    def has_our_numbers(self) -> bool:
        """Return whether it is in our PID namespace, so that its numbers need no translation.  Raises NsbrokerError, OSError."""
        if self._has_our_numbers is None:
            self._has_our_numbers = self._get_pid_namespace().inode == _own_inode(NamespaceType.PID)
        return self._has_our_numbers

    def translate(self, pid: int, target: str) -> int:
        """Translate `pid` from the peer's PID namespace to ours.  Raises NoSuchTarget for `target`.

        The result may belong to another process by the time that it is pinned: call `check_translated` then.
        """
        try:
            if self.has_our_numbers():
                return pid
            if not features().pid_translation:
                raise NoSuchTarget(
                    target, "the caller lives in another PID namespace, whose numbers this kernel cannot translate: send a pidfd"
                )
            return nsfs.process_from(self._get_pid_namespace().fileno(), pid)
        except OSError as error:
            raise NoSuchTarget(target, "there is no such process in the caller's PID namespace") from error

    def check_translated(self, pid: int, ours: int, target: str) -> None:
        """Check that `ours`, whose process is pinned by now, still is `pid` in the peer's PID namespace.  Raises NoSuchTarget."""
        ns = self._pid_namespace
        if pid == ours or ns is None:
            return
        try:
            still = nsfs.pid_in(ns.fileno(), ours) == pid
        except OSError:
            still = False
        if not still:
            raise NoSuchTarget(target, "there is no such process in the caller's PID namespace")

    def close(self) -> None:
        """Close the fds of the peer's process and PID namespace."""
        if self._process is not None:
            self._process.close()
        if self._pid_namespace is not None:
            self._pid_namespace.close()
        self.set_workload(None)


def why_without_process() -> str:
    """Return the reason why `Peer.process` is None, for an error message to the peer."""
    if features().peer_pidfd:
        return "the process that connected has ended"
    return f"{NO_PEER_PIDFD}: name yourself as pid:NUMBER, or send a pidfd"


def unit_of(cgroups: dict[str, str]) -> str | None:
    """Return the system unit that a process with these control groups is in, or None.

    Only the first path component below the slices counts.  The unit itself names the control groups below it, and a user may
    control those names (a user's service manager, a delegated scope).
    """
    parts = systemd_path(cgroups).split("/")[1:]
    if ".." in parts:
        return None
    first = next((part for part in parts if not part.endswith(".slice")), "")
    # systemd puts a '_' before unit names that could be mistaken for one of the kernel's files in a control group.
    return first.removeprefix("_") if first.endswith(UNIT_SUFFIXES) else None
