"""The servers that nsbroker is compared with: each in a process of its own, as long as a block runs."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from tests.bench.pace import Tally
from tests.bench.table import LeftOut
from tests.bench.wire import answers, open_call

BARE = "bare trio"
GO = "Go daemon"
ASYNCVARLINK = "asyncvarlink"
_FOLDER = Path(__file__).parent
BUILD = _FOLDER.parent.parent / "build/bench"
_PATIENCE = 20.0


class Server(NamedTuple):
    """A running server, and the call that opens one network namespace with it."""

    pid: int
    path: Path
    call: bytes


@contextlib.contextmanager
def running(
    command: Sequence[str],
    path: Path,
    log: IO[bytes],
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Iterator[int]:
    """Run a server until the end of the block, and wait before it until the server listens at `path`.  Yields its pid.

    What it prints goes to `log`.  Raises LeftOut with the end of that if the server ends or does not listen.
    """
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=folder)
    try:
        end = time.monotonic() + _PATIENCE
        while not answers(path):
            if process.poll() is not None or time.monotonic() > end:
                log.flush()
                log.seek(0)
                lines = log.read().decode(errors="replace").splitlines() or ["it does not listen"]
                raise LeftOut(lines[-1])
            time.sleep(0.005)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _server(command: Sequence[str], call: bytes) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        path = Path(folder, "socket")
        with running([*command, str(path)], path, log) as pid:
            yield Server(pid, path, call)


@contextlib.contextmanager
def start(target: int, names: Sequence[str]) -> Iterator[tuple[dict[str, Server], dict[str, str]]]:
    """Start the rivals with these names.  Yields those that run, and for the others the reasons why not.

    Their calls open the network namespace of the process `target`.
    """
    servers: dict[str, Server] = {}
    missing: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        for name in names:
            try:
                servers[name] = stack.enter_context(_START[name](target))
            except LeftOut as error:
                missing[name] = str(error)
        yield servers, missing


def _bare(target: int) -> contextlib.AbstractContextManager[Server]:
    return _server([sys.executable, "-m", "tests.bench.bare"], open_call(target))


def _asyncvarlink(target: int) -> contextlib.AbstractContextManager[Server]:
    call = json.dumps({"method": "com.example.Opener.Open", "parameters": {"pid": target}}).encode() + b"\0"
    return _server([sys.executable, "-m", "tests.bench.asyncvarlink_server"], call)


def _go(target: int) -> contextlib.AbstractContextManager[Server]:
    return _server([str(_built_go())], open_call(target))


_START = {BARE: _bare, ASYNCVARLINK: _asyncvarlink, GO: _go}


def _built_go() -> Path:
    """Compile the Go daemon, unless it is compiled already.  Raises LeftOut without a compiler."""
    source, program = _FOLDER / "daemon.go", BUILD / "daemon"
    go = shutil.which("go")
    if go is None:
        raise LeftOut("no Go compiler; `make bench RIVALS=all` installs it")
    # The standard library is enough: nothing is downloaded, and no C code is linked in.
    environment = {"GOCACHE": str(BUILD / "go-cache"), "GO111MODULE": "off", "GOPROXY": "off", "CGO_ENABLED": "0"}
    _compile([go, "build", "-o", str(program), str(source)], source, program, environment)
    return program


def _compile(command: Sequence[str], source: Path, program: Path, environment: Mapping[str, str]) -> None:
    if program.exists() and program.stat().st_mtime > source.stat().st_mtime:
        return
    try:
        BUILD.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LeftOut(f"cannot write to {BUILD}: {error.strerror}") from error
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
    if done.returncode:
        raise LeftOut(f"it does not compile: {done.stderr.strip()}")


def prepare() -> None:
    """Compile what has to be compiled, so that it takes no time in between.  What is missing is said later."""
    for build in (_built_go, _built_pair):
        with contextlib.suppress(LeftOut):
            build()


def _built_pair() -> Path:
    source, program = _FOLDER / "pair.c", BUILD / "pair"
    if shutil.which("cc") is None:
        raise LeftOut("no C compiler")
    _compile(["cc", "-O2", "-o", str(program), str(source)], source, program, {})
    return program


def c_pair(target: int, count: int, tally: Tally) -> None:
    """Do one turn with two C processes that do only the system calls.  Raises LeftOut without a C compiler."""
    output = subprocess.run([_built_pair(), str(target), str(count)], capture_output=True, text=True, check=True).stdout
    first, *lines = output.splitlines()
    user, system = (int(number) / 1e9 for number in first.split())
    tally.add([int(line) / 1e9 for line in lines], (user + system) / count, user, system)
