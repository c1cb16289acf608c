"""Queries to rootless engines, by a helper process that has only the rights of the engine's user over files.

The user controls everything that such an engine says or keeps: its files may be on a file system where reading takes for ever,
and its answers may be endless.  So the daemon itself touches nothing of it.  The helper process keeps the uid 0, so that the user
can neither trace nor signal it, and is killed at the deadline.  What it prints is trusted only as far as the user's own rights
go: see `PinnedContainer.belongs_to`.
"""

import contextlib
import ctypes
import os
import pwd
import resource
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import msgspec
import trio
from msgspec import Struct, structs

from nsbroker.daemon.engines.container import Container, Engine
from nsbroker.daemon.engines.decoding import DECODE_ERRORS
from nsbroker.daemon.engines.query import QueryResult, query_each
from nsbroker.errors import EngineUnavailable
from nsbroker.linux import procfs
from nsbroker.model.target import ENGINES

_OUTPUT_MAX = 256 * 1024
_MEMORY_MAX = 512 * 1024 * 1024
_CPU_SECONDS = 5
_KILL_SECONDS = 1.0
# What users make the helper process do must not delay other work, but it must come to an end.  With one busy process on each
# processor, nice 5 leaves it a quarter of one (the kernel's weights are 335 and 1024, see sched(7)).  That is enough for the third
# of a second that a query takes, within the default engine-deadline of two.  Nice 19 (weight 15) would leave it a seventieth, and
# every query would fail.
_NICE = 5
# Each user who has logged in has a runtime directory below it.
_SESSIONS = Path("/run/user")


class _Output(Struct):
    containers: list[Container]
    failures: list[tuple[str, str]]


_output = msgspec.json.Decoder(_Output)


def may_run_rootless(uid: int) -> bool:
    """Return whether the user has a runtime directory, where rootless engines run."""
    if uid == 0 or not _SESSIONS.exists():
        return False
    # The name is looked up in a listing, and the directory itself is not touched: the user controls it.
    return str(uid) in os.listdir(_SESSIONS)


class RootlessQuery(NamedTuple):
    """A query to the rootless engines of `uid` for the containers that match `word`, or for all when it is empty.

    `only` is the engine to query; empty means all.  The engines in `off` are never queried.
    """

    uid: int
    gid: int
    word: str
    only: str
    off: tuple[str, ...]


async def query_rootless(query: RootlessQuery, account: Callable[[float], None]) -> QueryResult:
    """Run a query in a helper process, which ends with it.  The caller sets the deadline.  Raises EngineUnavailable.

    `account` is called with the seconds of processor time that the process used, even if this is cancelled.
    """
    uid, gid, word, only, off = query
    command = [sys.executable, "-m", __name__, str(uid), str(gid), word, only, ",".join(off)]
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[3]
    )
    try:
        # The unit that ships forbids this system call (@resources).  There, only the pauses between helper processes limit them.
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process.pid, _NICE)
        printed = await _read(process.stdout, only)
    finally:
        account(_processor_time(process.pid))
        with trio.move_on_after(_KILL_SECONDS, shield=True):
            process.kill()
            await process.wait()
    try:
        output = _output.decode(printed)
    except DECODE_ERRORS as error:
        raise EngineUnavailable(
            only or "rootless", "could not be queried: it took too much time or memory, or its files are damaged"
        ) from error
    containers = [structs.replace(one, user=uid) for one in output.containers if one.engine in ENGINES]
    return QueryResult(containers, [EngineUnavailable(name, reason) for name, reason in output.failures])


def _processor_time(pid: int) -> float:
    """Return the seconds of processor time of a child process that was not waited for yet, or 0 if they are unreadable."""
    try:
        directory = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return 0.0
    try:
        return procfs.processor_time(directory)
    except (OSError, IndexError, ValueError):
        return 0.0
    finally:
        os.close(directory)


async def _read(pipe: trio.abc.ReceiveStream | None, only: str) -> bytes:
    """Read `pipe` to its end, and close it."""
    printed = bytearray()
    if pipe is None:
        return b""
    async with pipe:
        async for piece in pipe:
            printed += piece
            if len(printed) > _OUTPUT_MAX:
                raise EngineUnavailable(only or "rootless", f"the query's output has more than {_OUTPUT_MAX} bytes")
    return bytes(printed)


def _find_engines(uid: int, only: str, off: list[str]) -> list[Engine]:
    home = pwd.getpwuid(uid).pw_dir
    found = []
    for name in (only,) if only else ENGINES:
        module = import_module(f"{__package__}.{name}")
        for pattern in () if name in off else module.USER_PLACES:
            place = Path(pattern.format(home=home, runtime=_SESSIONS / str(uid)))
            if os.path.lexists(place):
                found.append(module.engine(place, uid))
    return found


async def _query(engine: Engine, word: str) -> QueryResult:
    try:
        return QueryResult(await (engine.find(word) if word else engine.containers()), [])
    except EngineUnavailable as error:
        return QueryResult([], [error])
    except Exception as error:
        # The user controls what the engine keeps and answers, so any error may come up here.
        return QueryResult([], [EngineUnavailable(engine.name, f"could not be queried: {type(error).__name__}")])


async def _main(uid: int, word: str, only: str, off: list[str]) -> None:
    results = await query_each(lambda engine: _query(engine, word), _find_engines(uid, only, off))
    output = _Output(
        [container for result in results for container in result.containers],
        [(failure.engine, failure.reason) for result in results for failure in result.failures],
    )
    sys.stdout.buffer.write(msgspec.json.encode(output))


def _drop_rights(uid: int, gid: int) -> None:
    """Limit what this process may use, and give it only the user's rights over files (setfsuid(2)).

    The rights are those of this thread and of all threads that it starts.
    """
    for limit, value in ((resource.RLIMIT_AS, _MEMORY_MAX), (resource.RLIMIT_CPU, _CPU_SECONDS), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(limit, (value, value))
    os.setgroups([])
    libc = ctypes.CDLL(None)
    libc.setfsgid(gid)
    libc.setfsuid(uid)
    # These calls report no errors.  Another call with -1 changes nothing, and returns the id that is in force.
    if libc.setfsgid(-1) != gid or libc.setfsuid(-1) != uid:
        raise SystemExit(1)


if __name__ == "__main__":
    _uid, _gid, _word, _only, _off = sys.argv[1:]
    # All imports come before the rights are dropped: the user may be unable to read the directory where this is installed.
    for _name in ENGINES:
        import_module(f"{__package__}.{_name}")
    _drop_rights(int(_uid), int(_gid))
    trio.run(_main, int(_uid), _word, _only, _off.split(","))
