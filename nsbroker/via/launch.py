"""Starting the command: the child installs the filter and hands the listener to the supervisor, then it becomes the command."""

import errno
import os
import socket
from typing import Self

from nsbroker.errors import CommandFailed
from nsbroker.linux import ancillary, descriptors, seccomp
from nsbroker.via.core import Answers, report
from nsbroker.via.names import Names
from nsbroker.via.overlay import put_over_host

_TEXT_MAX = 4096
_OLD = "this needs Linux 5.14 or later with seccomp filters, on x86-64 or aarch64"
_REASONS = {
    errno.EBUSY: "another program answers its system calls already: is this inside another `nsbroker via`?",
    errno.EINVAL: _OLD,
    errno.ENOSYS: _OLD,
}


class Launch:
    """The link between a child and the supervisor until the command has started.  It owns both ends; use it in a `with` block."""

    def __init__(self, names: Names) -> None:
        self._names = names
        # socketpair(2) never waits for an answer, so this also works where the filter is installed already.
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def prepare_child(self) -> None:
        """Put the target's files in place, install the filter, and send the listener.

        This runs in the child between fork(2) and execve(2).  If it fails, the reason is sent instead, and the OSError is raised.
        """
        fds: list[int] = []
        try:
            failure = put_over_host(self._names.files) if self._names.files else ""
            fds.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
            fds.append(seccomp.install())
            ancillary.send(self._theirs, b"!" + failure.encode(), fds)
        except OSError as error:
            ancillary.send(self._theirs, _explain(error).encode())
            raise
        finally:
            descriptors.close_all(fds)

    def take(self) -> Answers:
        """Return the answers (the caller's to close) for the command, which has started.

        One line on standard error says if names do not mean what they mean in the target.

        Raises OSError when this process has too many open files, CommandFailed when a signal ended the child.
        """
        self._theirs.close()
        text = bytearray(_TEXT_MAX)
        size, fds = ancillary.receive_into(self._ours, memoryview(text))
        if not fds:
            raise CommandFailed("the command was killed by a signal before it began")
        network, listener = fds
        failure = self._names.failure or text[1:size].decode(errors="replace")
        if failure:
            report(f"host names are looked up as the host's own configuration says: {failure}")
        return Answers(listener, network)

    def failure(self) -> CommandFailed | None:
        """Return why the child, which has ended, could not install the filter, or None when it was something else."""
        self._theirs.close()
        reason = self._ours.recv(_TEXT_MAX).decode()
        return CommandFailed(f"cannot run the command with its sockets made inside: {reason}") if reason else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()
        self._theirs.close()


def _explain(error: OSError) -> str:
    if error.filename is not None:
        return f"cannot open {error.filename}: {error.strerror}"
    default = f"a seccomp filter cannot be installed here ({error.strerror}): does a sandbox forbid it?"
    return _REASONS.get(error.errno or 0, default)
