"""Whether the broker can be reached, how it was started, and whether it is the version of this installation."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from nsbroker.cli.diagnosis.row import Row, Verdict
from nsbroker.client import blocking
from nsbroker.client.blocking import Broker
from nsbroker.errors import NsbrokerError
from nsbroker.linux import socket_options
from nsbroker.linux.socket_options import Credentials
from nsbroker.protocol import address
from nsbroker.protocol.messages import Status
from nsbroker.version import VERSION

_SUBJECT = "broker"
_START = "as root, run `systemctl enable --now nsbroker.socket`, or without systemd `nsbroker serve`"
_SYSTEMD = 1


class Found(NamedTuple):
    """What was found: a client and the broker's status, both None when it cannot be used, and the rows about it."""

    client: Broker | None
    status: Status | None
    rows: list[Row]


@contextlib.contextmanager
def connected(timeout: float) -> Iterator[Found]:
    """Connect to the broker as long as the context lasts.

    `timeout` is in seconds, for each step of a call.  Raises InvalidAddress.
    """
    path = address.socket_path()
    origin = f"${address.VARIABLE}" if os.environ.get(address.VARIABLE) else "the default"
    try:
        sock = blocking.open_connection(path, timeout)
    except NsbrokerError as error:
        # The error of connecting has an advice of its own, which says less.
        reason = error.__cause__.strerror if isinstance(error.__cause__, OSError) else None
        failed = Row(Verdict.FAIL, _SUBJECT, f"no broker at {path}: {reason}" if reason else str(error), _advice(path))
        yield Found(None, None, [failed])
        return
    with Broker(sock, path, timeout) as client:
        listener = socket_options.peer_credentials(sock)
        start = _describe_start(listener)
        try:
            status = client.status()
        except NsbrokerError as error:
            failed = Row(Verdict.FAIL, _SUBJECT, str(error), _advise_on_silence(listener.pid))
            yield Found(None, None, [failed, start])
            return
        answers = Row(Verdict.OK, _SUBJECT, f"it answers at unix:{path} ({origin})")
        yield Found(client, status, [answers, start, _compare_versions(status)])


def _advice(path: Path) -> str:
    try:
        exists = path.exists()
    except PermissionError:
        exists = True
    if exists and not os.access(path, os.W_OK):
        return "ask root who may use the socket (SocketMode= and SocketGroup= in `systemctl cat nsbroker.socket`)"
    if os.environ.get(address.VARIABLE):
        return f"see whether ${address.VARIABLE} is right; if it is, {_START}"
    return _START


def _describe_start(listener: Credentials) -> Row:
    """Say who listens: for a connection, the kernel names the process that called listen(2)."""
    pid, uid, _ = listener
    if uid != 0:
        text = f"process {pid} listens, which belongs to uid {uid} and not to root"
        return Row(Verdict.WARN, "start", text, f"see whether ${address.VARIABLE} is right: this is not root's broker")
    if pid == _SYSTEMD:
        return Row(Verdict.OK, "start", "systemd listens (nsbroker.socket), and starts the broker for the first call")
    if not pid:
        return Row(Verdict.OK, "start", "a process in another PID namespace listens, such as the broker's container")
    return Row(Verdict.OK, "start", f"process {pid} was started by hand, not by nsbroker.socket")


def _advise_on_silence(pid: int) -> str:
    """Return what to do about a broker that does not answer; `pid` is the process that listens."""
    with contextlib.suppress(OSError):
        # The third field of proc_pid_stat(5) follows the name, which can contain anything.
        if pid > _SYSTEMD and Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1] == "T":
            return f"it is stopped by a signal: as root, run `kill -CONT {pid}`"
    return "as root, see `journalctl -t nsbroker`"


def _compare_versions(status: Status) -> Row:
    if status.version == VERSION:
        return Row(Verdict.OK, "version", f"the broker and this command are {VERSION}")
    text = f"the broker is {status.version}, this command is {VERSION}"
    advice = "as root, run `nsbroker install-units && systemctl try-restart nsbroker.service` with the version that is wanted"
    return Row(Verdict.WARN, "version", text, advice)
