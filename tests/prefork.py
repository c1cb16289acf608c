"""Start daemons and commands by forking an interpreter that has imported their modules already.

A test run starts hundreds of them, and the imports of each take a third of a second.  A forked program looks like one that
was executed: it has the same command line in `sys.argv`, only the standard descriptors, no threads, and default signals.
"""

import contextlib
import ctypes
import fcntl
import gc
import importlib
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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15


class Forked:
    """A forked daemon.  It has as much of the interface of `subprocess.Popen` as tests need."""

    def __init__(self, server: "_Server", args: Sequence[str], pid: int) -> None:
        self._server = server
        self.args = list(args)
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return its exit code, or None while it runs."""
        if self.returncode is None:
            self.returncode = self._server.ask({"poll": self.pid})
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it ends; return its exit code.  `timeout` is in seconds.  Raises TimeoutExpired."""
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
        """Send a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL, if it still runs."""
        self.send_signal(signal.SIGKILL)


class _Server:
    """The interpreter from which daemons are forked.  Each process that starts daemons has its own."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._sock = ours
        with theirs:
            command = [sys.executable, __file__, str(theirs.fileno())]
            # It ends when this process ends, since its end of the socket is then closed.
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)

    def is_ours(self) -> bool:
        """Return whether this process started it, rather than a process from which this one was forked."""
        return self._owner == os.getpid()

    def ask(self, question: dict[str, Any], fds: Sequence[int] = ()) -> Any:
        """Send it a question, with `fds` (borrowed), and return the answer."""
        with self._lock:
            socket.send_fds(self._sock, [json.dumps(question).encode() + b"\n"], fds)
            with self._sock.makefile("rb") as file:
                return json.loads(file.readline())

    def end(self) -> None:
        """End the interpreter.  Daemons that still run keep running."""
        self._sock.close()
        self._process.wait()


_servers: list[_Server] = []


def prepare() -> _Server:
    """Start the interpreter of this process, if it has none, and return it."""
    if not _servers or not _servers[0].is_ours():
        _servers[:] = [_Server()]
    return _servers[0]


def finish() -> None:
    """End the interpreter of this process."""
    while _servers:
        _servers.pop().end()


def start(
    arguments: Sequence[str],
    errors: int,
    output: int | None = None,
    *,
    uid: int = 0,
    environment: Mapping[str, str] | None = None,
) -> Forked:
    """Start a Python program, with its standard error and output connected to `errors` and `output` (borrowed), without input.

    `arguments` are as on the command line of `python`: a path, or -m and a module, and then the arguments of the program.
    With `uid` it runs as that user, with the group of the same number and no others.
    """
    server = prepare()
    question = {
        "start": list(arguments),
        "uid": uid,
        "environment": dict(os.environ if environment is None else environment),
        "folder": os.getcwd(),
    }
    pid = server.ask(question, [errors] if output is None else [errors, output])
    return Forked(server, arguments, pid)


def run(
    arguments: Sequence[str], timeout: float, *, uid: int = 0, environment: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a Python program to its end and return what it wrote; otherwise as `start`.  Raises TimeoutExpired."""
    with _new_file("output") as output, _new_file("errors") as errors:
        started = start(arguments, errors.fileno(), output.fileno(), uid=uid, environment=environment)
        try:
            code = started.wait(timeout)
        except BaseException:
            started.kill()
            started.wait(timeout)
            raise
        written = []
        for file in (output, errors):
            file.seek(0)
            written.append(file.read().decode())
    return subprocess.CompletedProcess([sys.executable, *arguments], code, *written)


def _new_file(name: str) -> IO[bytes]:
    """Return a file in memory, to whose end several programs can write at the same time."""
    fd = os.memfd_create(name)
    # Without this, writes at the same time take the same place: such a file has no lock for its position, as files on disk have.
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
    return open(fd, "r+b")


def _become(question: dict[str, Any], fds: Sequence[int]) -> None:
    for number, fd in zip((2, 1), fds, strict=False):
        os.dup2(fd, number)
    os.closerange(3, 1000)
    if question["uid"]:
        os.setgroups([])
        os.setresgid(question["uid"], question["uid"], question["uid"])
        os.setresuid(question["uid"], question["uid"], question["uid"])
        # A process that changes its uid becomes undumpable; a program that the user starts is dumpable.
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
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
    fds: list[int] = []
    while True:
        data, more, _, _ = socket.recv_fds(sock, 65536, 2)
        if not data:
            return
        text += data
        fds += more
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
                _become(question, fds)
                sys.exit(0)
            for fd in fds:
                os.close(fd)
            fds = []
        sock.sendall(json.dumps(answer).encode() + b"\n")


def _preload() -> None:
    """Import what daemons and commands import."""
    importlib.import_module("nsbroker.daemon.main")
    for name in importlib.import_module("nsbroker.cli.main").COMMANDS:
        importlib.import_module(f"nsbroker.cli.commands.{name.replace('-', '_')}")
    # Collections of garbage in the children would otherwise copy the pages of all these objects.
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    # Python puts the folder of a script first on the path.  In this one `systemd` is a package of tests, not the real one.
    sys.path[0] = str(Path(__file__).parent.parent)
    _preload()
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        _serve(connection)
