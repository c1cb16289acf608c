"""The service manager: what it hands over at the start, and what it is told since.

See sd_listen_fds(3), sd_notify(3) and sd_watchdog_enabled(3).  Where there is none, or where systemd-python is not
installed, nothing is handed over and nothing is told.
"""

import errno
import os
import sys
import time
from typing import NamedTuple

import trio

_BARRIER = 5.0


class PassedFd(NamedTuple):
    """A descriptor that was handed over (now the caller's), with the name that the unit or the fd store gave it."""

    name: str
    fd: int


def passed_fds() -> list[PassedFd]:
    """What was handed over: sockets to listen on, and what the fd store kept."""
    # $LISTEN_FDNAMES is systemd's own; systemd-python's listen_fds_with_names() leaves out sockets without a name.
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    try:
        from systemd.daemon import listen_fds
    except ImportError:
        return []
    fds = list(listen_fds())
    os.environ.pop("LISTEN_FDNAMES", None)
    return [PassedFd(names[number] if len(names) == len(fds) else "", fd) for number, fd in enumerate(fds)]


class FdStore:
    """The service manager's store of descriptors (FileDescriptorStoreMax= in systemd.service(5))."""

    def __init__(self) -> None:
        # systemd sets it from version 254 on, our unit does before.
        size = os.environ.get("FDSTORE", "")
        self.durable = size.isdigit() and int(size) > 0 and "NOTIFY_SOCKET" in os.environ
        # What finds no room is dropped without a word.
        self.size = int(size) if self.durable else sys.maxsize

    def keep(self, name: str, fd: int) -> None:
        """Have a copy of `fd` (borrowed) stored."""
        self._tell(f"FDSTORE=1\nFDNAME={name}", [fd])

    def forget(self, name: str) -> None:
        """Have what is stored as `name` closed."""
        self._tell(f"FDSTOREREMOVE=1\nFDNAME={name}", [])

    async def settle(self) -> None:
        """Wait until all that was told has been done.  Raises OSError when the service manager does not get to it."""
        if not self.durable:
            return
        # sd_notify_barrier(3): the other end is closed when everything before it was handled.
        read, write = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                self._tell("BARRIER=1", [write])
            finally:
                os.close(write)
            with trio.move_on_after(_BARRIER) as scope:
                await trio.lowlevel.wait_readable(read)
            if scope.cancelled_caught:
                raise OSError(errno.ETIMEDOUT, "the service manager does not store descriptors")
        finally:
            os.close(read)

    def _tell(self, state: str, fds: list[int]) -> None:
        if self.durable:
            from systemd.daemon import notify

            notify(state, fds=fds)


class Manager:
    """Tells the service manager how things stand."""

    def __init__(self) -> None:
        self._status = ""
        try:
            from systemd.daemon import notify
        except ImportError:
            self._notify = None
        else:
            self._notify = notify

    @staticmethod
    def watchdog_interval() -> float | None:
        """The seconds within which it wants to hear of us; None when it does not."""
        if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
            return None
        microseconds = os.environ.get("WATCHDOG_USEC", "")
        return int(microseconds) / 1e6 if microseconds.isdigit() and int(microseconds) else None

    def ready(self) -> None:
        """We answer; also after a reload."""
        self._tell("READY=1")

    def reloading(self) -> None:
        """The configuration is being read again."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Nobody new is served."""
        self._tell("STOPPING=1")

    def alive(self) -> None:
        """The event loop turns."""
        self._tell("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`; told when it is another than before."""
        if text != self._status:
            self._status = text
            self._tell(f"STATUS={text}")

    def _tell(self, state: str) -> None:
        if self._notify is not None:
            self._notify(state)
