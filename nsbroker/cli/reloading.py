"""Having the running broker load its configuration again."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from nsbroker.client import blocking
from nsbroker.daemon.policy import rules
from nsbroker.errors import CommandFailed, ConfigurationError, ConnectionFailed, NsbrokerError
from nsbroker.linux import socket_options
from nsbroker.linux.features import features
from nsbroker.protocol.address import socket_path

_PAUSE = 0.02
_UNIT = "nsbroker.service"


def reload_broker(timeout: float) -> bool:
    """Have the broker load its configuration, and wait until it has; false when none runs.

    `timeout` is in seconds, for each call to the broker and for the loading.  Raises CommandFailed, Timeout.
    """
    _check_configuration()
    if Path("/run/systemd/system").is_dir() and _systemctl("is-active", "--quiet", "nsbroker.socket"):
        if not _systemctl("is-active", "--quiet", _UNIT):
            # systemd starts it with the next connection, and then it loads everything.
            return False
        before = _loaded(timeout)
        if not _systemctl("reload", _UNIT):
            raise CommandFailed(
                f"`systemctl reload {_UNIT}` failed: run `nsbroker check-config`, and if that finds nothing, see "
                f"`systemctl status {_UNIT}`"
            )
    else:
        try:
            before = _loaded(timeout)
        except ConnectionFailed:
            return False
        _signal_listener(timeout)
    end = time.monotonic() + timeout
    while _loaded(timeout) == before:
        if time.monotonic() > end:
            raise CommandFailed(f"the broker did not load its configuration within {timeout:g} s: see `nsbroker check-config`")
        time.sleep(_PAUSE)
    return True


def has_loaded(rule: str, file: Path, timeout: float) -> bool | None:
    """Return whether the broker has loaded the rule `rule` of `file`; None when that cannot be found out.

    `timeout` is in seconds, for each call to the broker.
    """
    try:
        with blocking.connect(timeout=timeout) as broker:
            reply = broker.explain("self", ["net"], who=["user:0"])
    except ConnectionFailed:
        return False
    except (NsbrokerError, OSError):
        return None
    if any((one.rule, one.file) == (rule, str(file)) for one in reply.rules or ()):
        return True
    return None if reply.rules_left_out else False


def _check_configuration() -> None:
    """Raise CommandFailed if the broker would keep the rules that it has: nothing would tell when it has given up."""
    try:
        rules.load()
    except ConfigurationError as error:
        raise CommandFailed(
            "the broker keeps the rules that it has until the configuration is repaired (`nsbroker check-config`) and "
            f"reloaded: {error.problems[0]}"
        ) from error


def _loaded(timeout: float) -> float:
    with blocking.connect(timeout=timeout) as broker:
        return broker.status().loaded


def _systemctl(*arguments: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return subprocess.run(["systemctl", *arguments], capture_output=True, check=False).returncode == 0  # noqa: S603, S607 - a program of systemd
    return False


def _signal_listener(timeout: float) -> None:
    """Send SIGHUP to the process that listens on the broker's socket.  Raises CommandFailed."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(timeout)
        sock.connect(str(socket_path()))
        pid, uid, _ = socket_options.peer_credentials(sock)
        pidfd = socket_options.peer_pidfd(sock) if features().peer_pidfd else os.pidfd_open(pid)
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if uid != 0 or pid <= 1 or b"serve" not in words:
            raise CommandFailed(f"process {pid} listens on the broker's socket, but it is not `nsbroker serve` run by root")
        signal.pidfd_send_signal(pidfd, signal.SIGHUP)
    finally:
        os.close(pidfd)
