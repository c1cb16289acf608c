"""The service manager: receive the fds that it passes at the start, notify it, and use its fd store.

See sd_listen_fds(3), sd_notify(3) and sd_watchdog_enabled(3).  Without a service manager, or without systemd-python, there are no
passed fds, and notifications do nothing.
"""

import os
import sys
import time
from typing import NamedTuple

import trio

from nsbroker.errors import TimedOut

# Seconds that systemd has to take what was sent to it.
_BARRIER = 5.0


class PassedFd(NamedTuple):
    """A descriptor that the service manager passed (the caller's to close), with its name in the unit or the fd store."""

    name: str
    fd: int


def passed_fds() -> list[PassedFd]:
    """Return the descriptors that were passed: sockets to listen on, and the contents of the fd store."""
    # We read $LISTEN_FDNAMES ourselves, because systemd-python's listen_fds_with_names() leaves out sockets without a name.
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
        # systemd sets this variable since version 254.  Our unit sets it for older versions.
        size = os.environ.get("FDSTORE", "")
        self.durable = size.isdigit() and int(size) > 0 and "NOTIFY_SOCKET" in os.environ
        # systemd silently drops descriptors for which the store has no room, so the broker must know the size.
        self.size = int(size) if self.durable else sys.maxsize

    def keep(self, name: str, fd: int) -> None:
        """Ask the service manager to store a copy of `fd` (borrowed) under `name`."""
        self._send_state(f"FDSTORE=1\nFDNAME={name}", [fd])

    def forget(self, name: str) -> None:
        """Ask the service manager to close the descriptors stored under `name`."""
        self._send_state(f"FDSTOREREMOVE=1\nFDNAME={name}", [])

    async def settle(self) -> None:
        """Wait until the service manager has processed all earlier messages.  Raises TimedOut."""
        if not self.durable:
            return
        # See sd_notify_barrier(3): systemd closes its end of the pipe when it has processed all earlier messages.
        read, write = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                self._send_state("BARRIER=1", [write])
            finally:
                os.close(write)
            with trio.move_on_after(_BARRIER) as scope:
                await trio.lowlevel.wait_readable(read)
            if scope.cancelled_caught:
                raise TimedOut(f"the service manager did not confirm within {_BARRIER:g} s that it has stored the namespaces")
        finally:
            os.close(read)

    def _send_state(self, state: str, fds: list[int]) -> None:
        if self.durable:
            from systemd.daemon import notify

            notify(state, fds=fds)


class Manager:
    """Notifies the service manager of the broker's state."""

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
        """Return the seconds within which the service manager expects `alive`, or None when it has no watchdog for us."""
        if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
            return None
        microseconds = os.environ.get("WATCHDOG_USEC", "")
        return int(microseconds) / 1e6 if microseconds.isdigit() and int(microseconds) else None

    def ready(self) -> None:
        """Report that the broker is ready to answer, at the start and after each reload."""
        self._send_state("READY=1")

    def reloading(self) -> None:
        """Report that the configuration is being reloaded."""
        self._send_state(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Report that the broker is stopping, and accepts no new connections."""
        self._send_state("STOPPING=1")

    def alive(self) -> None:
        """Report to the watchdog that the event loop is running."""
        self._send_state("WATCHDOG=1")

    def status(self, text: str) -> None:
        """Send one line for `systemctl status`, unless it is the same as before."""
        if text != self._status:
            self._status = text
            self._send_state(f"STATUS={text}")

    def _send_state(self, state: str) -> None:
        if self._notify is not None:
            self._notify(state)
