"""The real things that tests work with: daemons, processes in namespaces, users, named networks."""

import contextlib
import ctypes
import itertools
import os
import pickle
import platform
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

from nsbroker.cli.main import COMMANDS
from nsbroker.client import asyncio as asyncio_client
from nsbroker.client import trio as trio_client
from nsbroker.client.blocking import Broker, connect
from nsbroker.daemon.configuration import Limits
from nsbroker.namespace import Namespace
from tests import prefork
from tests.prefork import Forked
from tests.snapshot import Snapshot

T = TypeVar("T")

NOBODY = 65534
ALICE = 4001
BOB = 4002
"""Uids of users who own nothing.  They need no entry in /etc/passwd."""

_PR_SET_DUMPABLE = 4
SLOWNESS = float(os.environ.get("NSBROKER_SLOWNESS", "1"))
"""How many times slower than usual this machine is.  `.ci/run` and `tests/kernels/boot` set it."""
PATIENCE = 20.0 * SLOWNESS
"""How many seconds tests wait for what must happen.  It costs no time when it does."""
LINUX = tuple(int(number) for number in platform.release().replace("-", ".").split(".")[:2])
"""The version of the running kernel: its first two numbers."""

# What the broker gives itself or others to do something takes longer on a slow machine.
_DEADLINES = {
    name.replace("_", "-"): seconds * SLOWNESS
    for name, seconds in msgspec.structs.asdict(Limits()).items()
    if name.endswith("_deadline")
}
ENGINE_DEADLINE = _DEADLINES["engine-deadline"]
"""The `engine-deadline` of the daemons of tests, in seconds."""
PATIENT = f"engine-deadline = {PATIENCE}"
"""A limit for daemons that have to get an answer of a user's own engine.

A process of a lower priority asks these engines.  On a busy machine it may wait for a processor longer than for anything else.
"""
# These commands have no option --timeout.
_WITHOUT_TIMEOUT = (
    *("check-config", "completion", "grants", "install-extcap", "install-units", "remove-extcap", "remove-units", "serve"),
)
_TRIES = 3
# Each daemon has a folder of its own.  The address of an object can be that of an earlier one.
_numbers = itertools.count()
_SERVE_BY_NUMBER = Path(__file__).parent / "serve_by_number.py"


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until `condition` holds.  Fail when it does not within PATIENCE seconds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"never happened: {what}"
        time.sleep(0.005)


def check_below(limit: float, measure: Callable[[], float], what: str) -> None:
    """Check that `measure` returns less than `limit` in one of a few tries.

    What a call costs, it costs each time.  That other programs needed the processors happens in one try or another.
    """
    measured: list[float] = []
    while not measured or measured[-1] >= limit:
        assert len(measured) < _TRIES, f"{what}: {measured}, never below {limit:g}"
        measured.append(measure())


def let_clients_wait() -> None:
    """Let clients wait for PATIENCE seconds where a test gives no timeout, instead of the ten seconds for other programs."""
    for function in (connect, asyncio_client.connect, trio_client.connect):
        function.__kwdefaults__ = {**(function.__kwdefaults__ or {}), "timeout": PATIENCE}


class Daemon:
    """`nsbroker serve` in a process of its own.  Its log and its audit records go to a file."""

    def __init__(self, folder: Path, *, limits: str = "", prefix: Sequence[str] = (), by_number: bool = True) -> None:
        """Prepare the daemon; `start` starts it.

        `folder` gets its configuration and its log.  `limits` are lines for the section [limits].  `prefix` is put before
        the command.  With `by_number`, a kernel without SO_PEERPIDFD takes peers by their pids (`tests/serve_by_number.py`).
        """
        self.folder = folder
        # The folder of a test can have a path that is too long for the address of a socket.
        self.socket = Path(f"/run/nsbroker-{os.getpid()}-{next(_numbers)}/socket")
        self.address = f"unix:{self.socket}"
        self.config = folder / "config"
        self.config.mkdir()
        shipped = Path(__file__).parent.parent / "nsbroker/daemon/nsbroker.d/00-default.toml"
        limits += "".join(f"\n{name} = {seconds}" for name, seconds in _DEADLINES.items() if name not in limits)
        (self.config / "nsbroker.toml").write_text(f"{shipped.read_text()}\n[limits]\n{limits}\n")
        (self.config / "nsbroker.d").mkdir()
        self._log = folder / "log"
        program = [str(_SERVE_BY_NUMBER)] if by_number else ["-m", "nsbroker"]
        serve = ["serve", "--address", self.address, "--config", str(self.config)]
        self.command = [*prefix, sys.executable, *program, *serve]
        self.process: subprocess.Popen[bytes] | Forked | None = None

    def start(self) -> None:
        """Start the daemon, and wait until it listens."""
        before = self._starts()
        with open(self._log, "ab") as log:
            if self.command[0] == sys.executable:
                self.process = prefork.start(self.command[1:], log.fileno())
            else:
                self.process = subprocess.Popen(self.command, stderr=log, stdin=subprocess.DEVNULL)
        eventually(lambda: self._runs() and self._starts() > before, f"the daemon listens: {self.words()}")

    def _runs(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.words()
        return True

    def _starts(self) -> int:
        return sum("listening on" in line for line in self.words())

    @property
    def pid(self) -> int:
        """The pid of the daemon."""
        assert self.process is not None
        return self.process.pid

    def connect(self) -> Broker:
        """Connect a client whose calls time out after PATIENCE seconds."""
        return connect(self.address, timeout=PATIENCE)

    def raw(self) -> socket.socket:
        """Open a connection without the client library.  The caller closes it."""
        sock = socket.socket(socket.AF_UNIX)
        # Set the timeout later: with one, Python would not wait for room in the queue of connections.
        sock.connect(str(self.socket))
        sock.settimeout(PATIENCE)
        return sock

    def allow(self, name: str, **rule: object) -> None:
        """Add a rule to the policy, and reload it."""
        lines = "\n".join(f"{key} = {msgspec.json.encode(value).decode()}" for key, value in rule.items())
        (self.config / "nsbroker.d" / f"{name}.toml").write_text(f'[[allow]]\nname = "{name}"\n{lines}\n')
        self.reload()

    def reload(self) -> None:
        """Send SIGHUP, and wait until the daemon logs the result."""
        before = self._reloads()
        os.kill(self.pid, signal.SIGHUP)
        eventually(lambda: self._reloads() > before, "the daemon reloads")

    def _reloads(self) -> int:
        # Warnings about the rules come before the result.
        results = ("reloaded: ", "reloading failed", "every call is refused")
        return sum(any(result in line for result in results) for line in self.words())

    def words(self) -> list[str]:
        """Return the lines that the daemon logged, without the audit records."""
        return [line for line in self._lines() if not line.startswith("{")]

    def records(self) -> list[dict[str, Any]]:
        """Return the audit records of the daemon."""
        return [msgspec.json.decode(line) for line in self._lines() if line.startswith("{")]

    def _lines(self) -> list[str]:
        # The last line may be in the middle of being written.
        return self._log.read_text().rpartition("\n")[0].splitlines() if self._log.exists() else []

    def snapshot(self) -> Snapshot:
        """Take a snapshot of the daemon's fds and threads, once it has nothing left to do."""
        return Snapshot.settled(self.pid, SLOWNESS)

    def settles_at(self, before: Snapshot) -> None:
        """Wait until the daemon's fds and threads are as in `before`.  Fail with the difference after PATIENCE seconds."""
        end = time.monotonic() + PATIENCE
        while (now := self.snapshot()) != before:
            assert time.monotonic() < end, now.difference(before)
            time.sleep(0.01)

    def memory(self) -> int:
        """Return the resident memory of the daemon, in bytes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the daemon with a signal, and return its exit code."""
        process, self.process = self.process, None
        if process is None:
            return 0
        process.send_signal(number)
        try:
            return process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Sleeper:
    """A process that only sleeps, in new namespaces (the options of unshare(1)) and as the user `uid`."""

    def __init__(self, unshare: str = "--net --uts --ipc", uid: int = 0) -> None:
        drop = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if uid else []
        new = ["unshare", *unshare.split()] if unshare else []
        code = "import sys, time; print(end='!', flush=True); time.sleep(600)"
        self._process = subprocess.Popen([*new, *drop, sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        with self._process.stdout as ready:
            assert ready.read(1) == b"!"
        self.pid = self._process.pid

    def inode(self, ns_type: str) -> int:
        """Return the inode of its namespace of a type."""
        return int(os.readlink(f"/proc/{self.pid}/ns/{ns_type}").split("[")[1].rstrip("]"))

    def end(self, *, reap: bool = True) -> None:
        """Kill the process.  Without `reap`, it stays a zombie."""
        self._process.kill()
        if reap:
            self._process.wait()
        else:
            eventually(lambda: _state(self.pid) == "Z", "the process is a zombie")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


@contextlib.contextmanager
def named_network(name: str) -> Iterator[Path]:
    """Make a network namespace with `ip netns add NAME`, and remove it afterwards.  Yields its path."""
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        yield Path(f"/run/netns/{name}")
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


def listen_inside(name: str, address: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """Return a socket that listens in the network namespace `name` of `ip netns`, and set the loopback interface there up."""
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with Namespace.from_name(name, "net") as network:
        listener = network.call(lambda: socket.create_server((address, port), family=family, backlog=2048))
    listener.settimeout(PATIENCE)
    return listener


def slow_to_close(seconds: int = 120) -> tuple[socket.socket, socket.socket]:
    """Return a TCP socket whose last close(2) blocks for `seconds`, and the other end, which must stay open meanwhile.

    The other end does not read, and SO_LINGER makes the close wait for it.  The socket is non-blocking.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock = socket.create_connection(listener.getsockname())
        taken, _ = listener.accept()
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(bytes(65536))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, seconds))
    return sock, taken


def as_user(uid: int, function: Callable[[], T], groups: Sequence[int] = ()) -> T:
    """Run `function` as another user, in a child process.  Returns its result; fails with the traceback of what it raised."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read)
            os.setgroups(list(groups))
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            # A process that changes its uid becomes undumpable; a program that the user starts is dumpable.
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
            try:
                outcome: tuple[Any, str] = (function(), "")
            except BaseException as error:
                outcome = (None, f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
            with os.fdopen(write, "wb") as file:
                text = pickle.dumps(outcome)
                file.write(len(text).to_bytes(8, "big") + text)
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        # Do not read to the end of file: a child of another thread may hold the other end of the pipe, too.
        text = file.read(int.from_bytes(file.read(8), "big"))
    os.waitpid(child, 0)
    result, failure = pickle.loads(text)
    assert not failure, failure
    return result  # type: ignore[no-any-return]  # it came through a pickle


def _command(arguments: Sequence[str], uid: int, address: str) -> dict[str, Any]:
    drop = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if uid else []
    environment = {**os.environ, "NSBROKER_ADDRESS": address} if address else dict(os.environ)
    return {"args": [*drop, sys.executable, "-m", "nsbroker", *_patient(arguments)], "env": environment}


def _patient(arguments: Sequence[str]) -> Sequence[str]:
    """Have a command that asks the broker wait longer than the ten seconds for other users, unless the test gives a timeout."""
    if arguments and arguments[0] in COMMANDS and arguments[0] not in _WITHOUT_TIMEOUT and "--timeout" not in " ".join(arguments):
        return [arguments[0], f"--timeout={2 * PATIENCE}", *arguments[1:]]
    return arguments


def start_command(*arguments: str, uid: int = 0, address: str = "", **options: Any) -> subprocess.Popen[bytes]:
    """Start the `nsbroker` command as a user, with pipes for its input and outputs; `options` are those of Popen."""
    pipe = subprocess.PIPE
    return subprocess.Popen(**{**_command(arguments, uid, address), "stdin": pipe, "stdout": pipe, "stderr": pipe, **options})


def run_command(*arguments: str, uid: int = 0, address: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the `nsbroker` command as a user until it ends."""
    # Variables such as PYTHONIOENCODING only have an effect when an interpreter starts.
    if not options and not any(name.startswith("PYTHON") for name in os.environ):
        environment = {**os.environ, "NSBROKER_ADDRESS": address} if address else None
        return prefork.run(["-m", "nsbroker", *_patient(arguments)], 3 * PATIENCE, uid=uid, environment=environment)
    return subprocess.run(
        **_command(arguments, uid, address),
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE,
        check=False,
        **options,
    )
