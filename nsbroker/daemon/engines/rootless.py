"""Engines that a user runs without root: asked by a process that has this user's rights over files, and no others.

Everything that such an engine says or keeps is the user's to make up: its files may lie where reading takes for ever, its
answers may be endless.  So nothing of it is touched by the daemon itself.  The process keeps the uid 0, by which the user
can neither trace nor signal it; it is killed at the deadline, and what it prints is believed only as far as the user's
rights go: see `PinnedContainer.is_of`.
"""

import contextlib
import ctypes
import dataclasses
import os
import pwd
import resource
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import msgspec
import trio
from msgspec import Struct

from nsbroker.daemon.engines.container import Container, Engine
from nsbroker.daemon.engines.query import Survey, ask_each
from nsbroker.errors import EngineUnavailable
from nsbroker.model.target import ENGINES

_OUTPUT_MAX = 256 * 1024
_MEMORY_MAX = 512 * 1024 * 1024
_CPU_SECONDS = 2
_END = 1.0
# What users make it do shall wait for everything else.
_LOWEST = 19
# Below it each user who has logged in keeps what runs.
_SESSIONS = Path("/run/user")


class _Said(Struct):
    containers: list[Container]
    failures: list[tuple[str, str]]


_said = msgspec.json.Decoder(_Said)


def may_have_own(uid: int) -> bool:
    """Whether the user has a place where rootless engines run."""
    if uid == 0 or not _SESSIONS.exists():
        return False
    # Listed, not looked at: what is there is the user's.
    return str(uid) in os.listdir(_SESSIONS)


class OwnQuestion(NamedTuple):
    """What the own engines of `uid` say of `word`, or of all their containers when it is empty.

    `only`: the engine to ask, empty for all but those in `off`.
    """

    uid: int
    gid: int
    word: str
    only: str
    off: tuple[str, ...]


async def ask_own(question: OwnQuestion) -> Survey:
    """The answer.  Whoever calls sets the deadline.  Raises EngineUnavailable."""
    uid, gid, word, only, off = question
    command = [sys.executable, "-m", __name__, str(uid), str(gid), word, only, ",".join(off)]
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[3]
    )
    try:
        # The unit that ships forbids it, with all of @resources: there the pauses between such processes have to do.
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process.pid, _LOWEST)
        printed = await _read(process.stdout, only)
    finally:
        with trio.move_on_after(_END, shield=True):
            process.kill()
            await process.wait()
    try:
        said = _said.decode(printed)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise EngineUnavailable(only or "own", "could not be asked: it took too much, or its files are out of order") from error
    containers = [dataclasses.replace(one, user=uid) for one in said.containers if one.engine in ENGINES]
    return Survey(containers, [EngineUnavailable(name, reason) for name, reason in said.failures])


async def _read(pipe: trio.abc.ReceiveStream | None, only: str) -> bytes:
    """All that comes through `pipe` (taken)."""
    printed = bytearray()
    if pipe is None:
        return b""
    async with pipe:
        async for piece in pipe:
            printed += piece
            if len(printed) > _OUTPUT_MAX:
                raise EngineUnavailable(only or "own", "says too much")
    return bytes(printed)


def _engines(uid: int, only: str, off: list[str]) -> list[Engine]:
    home = pwd.getpwuid(uid).pw_dir
    found = []
    for name in (only,) if only else ENGINES:
        module = import_module(f"{__package__}.{name}")
        for pattern in () if name in off else module.USER_PLACES:
            place = Path(pattern.format(home=home, runtime=_SESSIONS / str(uid)))
            if os.path.lexists(place):
                found.append(module.engine(place, uid))
    return found


async def _ask(engine: Engine, word: str) -> Survey:
    try:
        return Survey(await (engine.find(word) if word else engine.containers()), [])
    except EngineUnavailable as error:
        return Survey([], [error])
    except Exception as error:
        # Whatever it is, it is the user's own.
        return Survey([], [EngineUnavailable(engine.name, f"could not be asked: {type(error).__name__}")])


async def _main(uid: int, word: str, only: str, off: list[str]) -> None:
    surveys = await ask_each(lambda engine: _ask(engine, word), _engines(uid, only, off))
    said = _Said(
        [container for survey in surveys for container in survey.containers],
        [(failure.engine, failure.reason) for survey in surveys for failure in survey.failures],
    )
    sys.stdout.buffer.write(msgspec.json.encode(said))


def _take_rights_of(uid: int, gid: int) -> None:
    """From here on this thread, and those it starts, open files as the user would.  See setfsuid(2)."""
    for kind, most in ((resource.RLIMIT_AS, _MEMORY_MAX), (resource.RLIMIT_CPU, _CPU_SECONDS), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(kind, (most, most))
    os.setgroups([])
    libc = ctypes.CDLL(None)
    libc.setfsgid(gid)
    libc.setfsuid(uid)
    # It has no other way to say that it did not.
    if libc.setfsgid(-1) != gid or libc.setfsuid(-1) != uid:
        raise SystemExit(1)


if __name__ == "__main__":
    _uid, _gid, _word, _only, _off = sys.argv[1:]
    # Before the rights go: the user need not be able to read where this is installed.
    for _name in ENGINES:
        import_module(f"{__package__}.{_name}")
    _take_rights_of(int(_uid), int(_gid))
    trio.run(_main, int(_uid), _word, _only, _off.split(","))
