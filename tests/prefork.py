"""Starts daemons from an interpreter that has imported them already: a test has hundreds of daemons, and a third of a second
goes into importing each.

What is forked here is as what is executed: the same command line for `sys.argv`, no descriptors but the standard ones, no
threads, signals as they are by default.
"""

import contextlib
import ctypes
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

_PRELOADED = "import nsbroker.cli.main, nsbroker.cli.commands.serve, nsbroker.daemon.main"
_PR_SET_NAME = 15


class Forked:
    """A daemon, with as much of `subprocess.Popen` as tests need."""

    def __init__(self, server: "_Server", args: Sequence[str], pid: int) -> None:
        self._server = server
        self.args = list(args)
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code, if it has ended."""
        if self.returncode is None:
            self.returncode = self._server.ask({"poll": self.pid})
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it ends.  Raises TimeoutExpired."""
        end = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            with contextlib.suppress(ProcessLookupError):
                fd = os.pidfd_open(self.pid)
                try:
                    select.select([fd], [], [], 0.1)
                finally:
                    os.close(fd)
        return code

    def send_signal(self, number: int) -> None:
        """As long as it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class _Server:
    """The interpreter from which daemons are forked; one for each process that starts any."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._sock = ours
        with theirs:
            command = [sys.executable, __file__, str(theirs.fileno())]
            # It ends when this process has: nobody waits for it.
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)

    def is_ours(self) -> bool:
        """Whether this process started it, and not one from which this one was forked."""
        return self._owner == os.getpid()

    def ask(self, question: dict[str, Any], fds: Sequence[int] = ()) -> Any:
        """Its answer."""
        with self._lock:
            socket.send_fds(self._sock, [json.dumps(question).encode() + b"\n"], fds)
            with self._sock.makefile("rb") as file:
                return json.loads(file.readline())

    def end(self) -> None:
        """Let it go.  Daemons that still run go on."""
        self._sock.close()
        self._process.wait()


_servers: list[_Server] = []


def prepare() -> _Server:
    """Have the interpreter ready."""
    if not _servers or not _servers[0].is_ours():
        _servers[:] = [_Server()]
    return _servers[0]


def finish() -> None:
    """It is needed no longer."""
    while _servers:
        _servers.pop().end()


def start(arguments: Sequence[str], errors: int) -> Forked:
    """Run a Python program with `arguments` as `python` takes them (a path, or -m and a module), its standard errors going
    to `errors` (borrowed), without any input.
    """
    server = prepare()
    pid = server.ask({"start": list(arguments), "environment": dict(os.environ), "folder": os.getcwd()}, [errors])
    return Forked(server, arguments, pid)


def _become(question: dict[str, Any], errors: int) -> None:
    os.dup2(errors, 2)
    os.closerange(3, 1000)
    os.environ.clear()
    os.environ.update(question["environment"])
    os.chdir(question["folder"])
    first, *rest = question["start"]
    ctypes.CDLL(None).prctl(_PR_SET_NAME, b"python", 0, 0, 0)
    if first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [first, *rest]
        runpy.run_path(first, run_name="__main__")


def _serve(sock: socket.socket) -> None:
    text = b""
    errors = -1
    while True:
        data, fds, _, _ = socket.recv_fds(sock, 65536, 1)
        if not data:
            return
        text += data
        errors = fds[0] if fds else errors
        if not text.endswith(b"\n"):
            continue
        question = json.loads(text)
        text = b""
        if "poll" in question:
            pid, status = os.waitpid(question["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if answer == 0:
                sock.close()
                _become(question, errors)
                sys.exit(0)
            os.close(errors)
        sock.sendall(json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    exec(_PRELOADED)
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        _serve(connection)
