"""Who asks: the peer of a connection, from the kernel's own structs and nothing that the peer can write.

All of it is of connect time: a socket that was passed on still speaks for the process that connected.
"""

import functools
import os
import socket
from pathlib import Path
from typing import NamedTuple

from nsbroker.daemon.limits.users import ANONYMOUS, SubordinateUids
from nsbroker.errors import NoSuchTarget, NsbrokerError
from nsbroker.linux import nsfs, socket_options
from nsbroker.linux.capabilities import CAP_SYS_ADMIN
from nsbroker.linux.cgroup import systemd_path
from nsbroker.linux.credentials import Credentials
from nsbroker.linux.features import features
from nsbroker.linux.process import Process
from nsbroker.model.identity import NamespaceType
from nsbroker.model.target import UNIT_SUFFIXES
from nsbroker.namespace import Namespace

_WHOLE_RANGE = ["0", "0", "4294967295"]
_subordinates = SubordinateUids()

NO_PEER_PIDFD = "before Linux 6.5 the kernel does not show the broker which process connected, only its user and groups"
"""What it means that there is no SO_PEERPIDFD: nobody has a unit, nobody is shown to be root, and nobody is `self`."""


@functools.cache
def _uids_are_whole() -> bool:
    """Whether every uid can be told apart here: not in a user namespace that maps only some."""
    return Path("/proc/self/uid_map").read_text(encoding="ascii").split() == _WHOLE_RANGE


@functools.cache
def overflow_uid() -> int:
    """What uids that are not mapped here read as."""
    return int(Path("/proc/sys/kernel/overflowuid").read_text(encoding="ascii"))


@functools.cache
def _own_inode(kind: NamespaceType) -> int:
    return os.stat(f"/proc/self/ns/{kind}").st_ino


class Maker(NamedTuple):
    """Whose it is to be what the broker makes for a peer."""

    credentials: Credentials
    groups: tuple[int, ...]


class Peer:
    """The peer of `sock`, which is borrowed for as long as the peer is in use.  Owns what it pins; close it.

    `anonymous` is set when its uid proves nothing: one that cannot be told from other unmapped ones, or a uid 0 that is
    not shown to have the rights of the host's root.  Only rules for everyone fit an anonymous peer.  `user` is whom its use
    of the broker is counted to: see `limits.users`.
    """

    __slots__ = ("_groups", "_pid_namespace", "_pinned", "_process", "_sock", "_unit", "anonymous", "gid", "pid", "uid", "user")

    def __init__(self, sock: socket.socket) -> None:
        self.pid, self.uid, self.gid = socket_options.peer_credentials(sock)
        self._groups: frozenset[int] | None = None
        self._sock = sock
        self._pinned = False
        self._process: Process | None = None
        self._pid_namespace: Namespace | None = None
        self._unit: str | None = None
        self.anonymous = self._is_anonymous()
        self.user = ANONYMOUS if self.anonymous else _subordinates.user_of(self.uid)

    def _is_anonymous(self) -> bool:
        if self.uid == 2**32 - 1 or (self.uid == overflow_uid() and not _uids_are_whole()):
            return True
        return self.uid == 0 and not self._is_administrator()

    def _is_administrator(self) -> bool:
        """Whether the peer, whose uid is 0, has CAP_SYS_ADMIN effective in our own user namespace now.

        The uid alone is not enough: the root of a container without a user namespace has it, too.
        """
        process = self.process()
        if process is None:
            return False
        try:
            # In this order: who enters a new user namespace gains every capability there, and cannot come back.
            capable = bool(process.effective_capabilities() & CAP_SYS_ADMIN)
            with Namespace.from_process(process, NamespaceType.USER, "self") as user:
                return capable and user.inode == _own_inode(NamespaceType.USER)
        except (NsbrokerError, OSError):
            return False

    def _namespace(self, kind: NamespaceType) -> Namespace:
        process = self.process()
        if process is not None:
            return Namespace.from_process(process, kind, "self")
        if features().peer_pidfd:
            raise NoSuchTarget("self", "the process that connected has ended")
        # Without SO_PEERPIDFD (before Linux 6.5) there is only the number of connect time: another process of the same
        # uid may have it by now, and then speaks for this one.
        with Process.open(self.pid) as guess:
            if guess.info().uids != (self.uid,) * 4:
                raise NoSuchTarget("self", "the process that connected has ended")
            return Namespace.from_process(guess, kind, "self")

    @property
    def groups(self) -> frozenset[int]:
        """Its gids of connect time."""
        if self._groups is None:
            self._groups = frozenset((self.gid, *socket_options.peer_groups(self._sock)))
        return self._groups

    @property
    def credentials(self) -> Credentials:
        """The uid and the gid that the peer had when it connected."""
        return Credentials(self.uid, self.gid)

    @property
    def maker(self) -> Maker:
        """Whose it is to be what is made for the peer: nobody's in particular, where the peer's uid proves nothing."""
        if self.anonymous:
            return Maker(Credentials(overflow_uid(), overflow_uid()), ())
        return Maker(self.credentials, tuple(self.groups))

    def owns(self, uid: int) -> bool:
        """Whether what belongs to `uid` is the peer's own."""
        return not self.anonymous and self.uid == uid

    def process(self) -> Process | None:
        """The process that connected, pinned without a race (borrowed); None where the kernel cannot (before 6.5), or
        when it is gone.
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
        """The systemd unit that it is in right now; None when it has none, is gone, or cannot be pinned."""
        process = self.process()
        if process is None:
            return None
        try:
            return unit_of(process.cgroups())
        except OSError:
            return None

    def first_unit(self) -> str | None:
        """The unit that it was in when this was first asked: for records, not for rules."""
        if self._unit is None:
            self._unit = self.unit() or ""
        return self._unit or None

    def _numbers(self) -> Namespace:
        """The PID namespace by which the peer counts processes (borrowed).  Raises NoSuchTarget when it has ended."""
        if self._pid_namespace is None:
            self._pid_namespace = self._namespace(NamespaceType.PID)
        return self._pid_namespace

    def number_of(self, pid: int) -> int | None:
        """What the peer calls our process `pid`; None when it cannot see it, or when that cannot be told."""
        try:
            space = self._numbers()
            if space.inode == _own_inode(NamespaceType.PID):
                return pid
            return nsfs.pid_in(space.fileno(), pid) or None
        except (NsbrokerError, OSError):
            return None

    def translate(self, pid: int, target: str) -> int:
        """What the peer calls `pid`, in our PID namespace.  Raises NoSuchTarget."""
        try:
            space = self._numbers()
            if space.inode == _own_inode(NamespaceType.PID):
                return pid
            if not features().pid_translation:
                raise NoSuchTarget(
                    target, "the caller lives in another PID namespace, whose numbers this kernel cannot translate: send a pidfd"
                )
            return nsfs.process_from(space.fileno(), pid)
        except OSError as error:
            raise NoSuchTarget(target, "there is no such process in the caller's PID namespace") from error

    def see_translated(self, pid: int, ours: int, target: str) -> None:
        """See that `ours`, which is pinned by now, is still what the peer calls `pid`."""
        space = self._pid_namespace
        if pid == ours or space is None:
            return
        try:
            still = nsfs.pid_in(space.fileno(), ours) == pid
        except OSError:
            still = False
        if not still:
            raise NoSuchTarget(target, "there is no such process in the caller's PID namespace")

    def close(self) -> None:
        """Let go of what was pinned."""
        if self._process is not None:
            self._process.close()
        if self._pid_namespace is not None:
            self._pid_namespace.close()


def why_without_process() -> str:
    """Why a peer has no process, in words for the peer."""
    if features().peer_pidfd:
        return "the process that connected has ended"
    return f"{NO_PEER_PIDFD}: name yourself as pid:NUMBER, or send a pidfd"


def unit_of(cgroups: dict[str, str]) -> str | None:
    """The system's unit that a process with these control groups is in.

    Only the first component below the slices counts: what comes after it is named by the unit itself, which its owner
    may write to (a user's manager, a delegated scope).
    """
    parts = systemd_path(cgroups).split("/")[1:]
    if ".." in parts:
        return None
    first = next((part for part in parts if not part.endswith(".slice")), "")
    # systemd puts a '_' before names that the kernel could take for one of its own files.
    return first.removeprefix("_") if first.endswith(UNIT_SUFFIXES) else None
