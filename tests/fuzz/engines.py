"""Replies and files of engines: whatever they contain, the result is containers, or an error that names the engine."""

import contextlib
import errno
import functools
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any
from unittest import mock

import msgspec
import trio
from hypothesis import strategies as st

from nsbroker.daemon.engines import containerd, cri, crun, docker, incus, lxc, podman, runc, trusted_directory
from nsbroker.daemon.engines.container import Container, Engine, State
from nsbroker.errors import EngineUnavailable, NoSuchTarget
from tests.fuzz import mutate
from tests.fuzz.subject import Fault, Seed, Subject, seeded

_VARIANTS = 6
_ID = "ab" * 32
_HTTP = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nContent-Type: application/json\r\n\r\n%s"


# On a private host, this folder is in memory and ends with the host.
@functools.cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="fuzz-"))


def _encode(value: Any, chance: Seed, *, spoil: float = 0.5) -> bytes:
    text = msgspec.json.encode(value)
    return mutate.data(text, chance) if chance.random() < spoil else text


def _check_containers(containers: Sequence[Container]) -> None:
    """Check that each container has values of the right types."""
    for one in containers:
        # Each of these comes from the engine.
        if not isinstance(one.pid, int) or not isinstance(one.state, State) or not isinstance(one.id, str):
            raise Fault(f"no container: {one!r}")
        if one.start_time is not None and not isinstance(one.start_time, int):
            raise Fault(f"started at {one.start_time!r}")
        if not all(isinstance(name, str) for name in (*one.names, *one.aliases, *one.groups)):
            raise Fault(f"a name is no string: {one!r}")
        one.rule_names()
        with contextlib.suppress(NoSuchTarget, EngineUnavailable):
            one.pin().close()


async def _ask(engine: Engine, words: Sequence[str]) -> int:
    calls: list[Callable[[], Any]] = [engine.containers, *(functools.partial(engine.find, word) for word in words)]
    for call in calls:
        try:
            with trio.fail_after(5):
                _check_containers(await call())
        except (EngineUnavailable, NoSuchTarget):
            pass
        except trio.TooSlowError as error:
            raise Fault("no answer in 5 s") from error
        except OSError as error:
            # The callers of engines handle missing files, and sockets on which nothing listens.
            if error.errno not in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR, errno.ELOOP, errno.EXDEV, errno.ENAMETOOLONG):
                raise
    return len(calls)


def _make_check(function: Callable[[Any, Seed], Any]) -> Callable[[tuple[Any, Seed]], int]:
    """Return a check that tries all variants in one event loop."""

    def check(example: tuple[Any, Seed]) -> int:
        drawn, seed = example
        chance = seed.again()

        async def main() -> int:
            return sum([await function(drawn if not number else mutate.tree(drawn, chance), chance) for number in range(_VARIANTS)])

        # Files do not change while they are read, so no pause is needed.
        with mock.patch.object(trusted_directory, "_PAUSE", 0.0):
            return trio.run(main)

    return check


def _make_folder(name: str) -> Path:
    place = _folder() / name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    return place


def _put(path: Path, data: bytes) -> None:
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o600)


async def _crun(status: Any, chance: Seed) -> int:
    place = _make_folder("crun")
    for name in ("a", "ab", "x y", "é"):
        _put(place / name / "status", _encode(status, chance))
    return await _ask(crun.engine(place, 0), ("a", "x", ""))


async def _runc(state: Any, chance: Seed) -> int:
    place = _make_folder("runc")
    for name in ("a", "ab", "\udcff"):
        _put(place / name / "state.json", _encode(state, chance))
    return await _ask(runc.engine(place, 0), ("a", "b"))


async def _podman(stored: Any, chance: Seed) -> int:
    place = _make_folder("podman")
    _put(place / "overlay-containers/containers.json", _encode(stored, chance))
    _put(place / "vfs-containers/volatile-containers.json", _encode(stored, chance))
    return await _ask(podman.engine(place, 0), ("web", _ID[:5]))


async def _containerd(specification: Any, chance: Seed) -> int:
    place = _make_folder("containerd")
    for ns in ("default", "k8s.io", "other"):
        task = place / f"io.containerd.runtime.v2.task/{ns}/c1"
        _put(task / "config.json", _encode(specification, chance))
        _put(task / "init.pid", mutate.data(b"4711", chance) if chance.random() < 0.5 else b"1")
        _put(place / f"runc/{ns}/c1/state.json", _encode({"init_process_start": 7}, chance, spoil=0.3))
    calls = await _ask(containerd.engine(place, 0), ("c1", "other/c1"))
    return calls + await _ask(cri.engine(place, 0), ("default/pod/web", "c"))


class _Server:
    """Serves an engine's API at a socket.  Each connection gets the next of `answers`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: list[bytes] = []

    async def serve(self, task_status: trio.TaskStatus[None]) -> None:
        self.path.unlink(missing_ok=True)
        with trio.socket.socket(trio.socket.AF_UNIX) as listener:
            await listener.bind(str(self.path))
            listener.listen(100)
            task_status.started()
            while True:
                sock, _ = await listener.accept()
                with sock, contextlib.suppress(OSError):
                    await sock.recv(65536)
                    data = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
                    while data:
                        data = data[await sock.send(data) :]


def _answer(value: Any, chance: Seed) -> bytes:
    """Return an HTTP response, perhaps a spoilt one."""
    body = _encode(value, chance, spoil=0.3)
    good = _HTTP % (len(body), body)
    match chance.randrange(10):
        case 0:
            return mutate.data(good, chance)
        case 1:
            return good.replace(
                b"200 OK", chance.choice((b"404 Not Found", b"500 X", b"100 Continue", b"204 No", b"301 Moved", b"999 x"))
            )
        case 2:
            return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + mutate.data(
                b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body), chance
            )
        case 3:
            return good.replace(b"\r\n\r\n", b"\r\n" + b"X: y\r\n" * chance.randrange(3000) + b"\r\n", 1)
        case 4:
            return good[: chance.randrange(len(good))]
        case 5:
            return b"HTTP/1.1 100 Continue\r\n\r\n" * chance.randrange(200) + good
    return good


async def _apis(example: Any, chance: Seed) -> int:
    if not isinstance(example, dict):
        return 0
    server = _Server(_folder() / "engine.sock")
    one, many = example.get("one"), example.get("many")
    calls = 0
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        for engine in (docker.engine(server.path, 0), podman.engine(server.path, 0), incus.engine(server.path, 0)):
            metadata = isinstance(engine, incus.Incus)
            answers = [many if not metadata else {"metadata": [one]}, one if not metadata else {"metadata": one}]
            server.answers = [_answer(answers[number % 2], chance) for number in range(40)]
            calls += await _ask(engine, ("web", "project/service"))
        nursery.cancel_scope.cancel()
    return calls


class _Watched(lxc.Lxc):
    """An LXC all of whose containers have a monitor."""

    async def _is_watched(self, name: str, network: str) -> bool:
        return True


async def _lxc(status: Any, chance: Seed) -> int:
    place = _make_folder("lxc")
    _put(place / "web/config", b"")
    text = mutate.data(status.encode(errors="replace"), chance) if isinstance(status, str) else str(status).encode()

    async def run(*_: object, **__: object) -> CompletedProcess[bytes]:
        return CompletedProcess([], chance.choice((0, 0, 0, 1)), text)

    with mock.patch.object(trio, "run_process", run):
        return await _ask(_Watched(place, 0), ("web", "w"))


def _pid() -> st.SearchStrategy[Any]:
    return st.sampled_from((0, 1, 7, -1, 2**31, 2**63, 10**20, None, "1", 1.5))


_word = st.sampled_from(("web", "/web", "", "a/b", "é", "x" * 300, "{id}", "..", "a\nb"))
_labels = st.dictionaries(st.sampled_from(("com.docker.compose.project", "com.docker.compose.service", "a")), _word, max_size=3)
_one = st.fixed_dictionaries(
    {
        "Id": st.sampled_from((_ID, "a", "", "{id}")),
        "Name": _word,
        "State": st.fixed_dictionaries({"Status": st.sampled_from(("running", "paused", "exited", "")), "Pid": _pid()}),
        "Config": st.fixed_dictionaries({"Labels": st.one_of(st.none(), _labels)}),
        "name": _word,
        "type": st.sampled_from(("container", "virtual-machine")),
        "project": _word,
        "status": st.sampled_from(("Running", "Stopped")),
        "state": st.fixed_dictionaries({"pid": _pid(), "status": _word}),
    }
)
_many = st.lists(st.fixed_dictionaries({"Id": st.sampled_from((_ID, _ID[:12], "a/../b", "é"))}), max_size=4)
_specification = st.fixed_dictionaries(
    {
        "annotations": st.dictionaries(
            st.sampled_from(
                ("nerdctl/name", *(f"io.kubernetes.cri.{key}" for key in ("sandbox-name", "sandbox-namespace", "container-name")))
            ),
            _word,
        ),
        "linux": st.fixed_dictionaries(
            {"cgroupsPath": st.sampled_from(("/a/b", "system.slice:docker:ab", ":::", "", "a:b:c:d", "/"))}
        ),
    }
)

SUBJECTS = tuple(
    Subject(name, share, seeded(examples), _make_check(function))
    for name, share, examples, function in (
        ("crun", 0.01, st.fixed_dictionaries({"pid": _pid(), "process-start-time": _pid()}), _crun),
        ("runc", 0.008, st.fixed_dictionaries({"init_process_pid": _pid(), "init_process_start": _pid()}), _runc),
        (
            "podman",
            0.008,
            st.lists(st.fixed_dictionaries({"id": st.just(_ID), "names": st.lists(_word, max_size=2)}), max_size=3),
            _podman,
        ),
        ("containerd", 0.01, _specification, _containerd),
        ("apis", 0.01, st.fixed_dictionaries({"one": _one, "many": _many}), _apis),
        ("lxc", 0.005, st.sampled_from(("State: RUNNING\nPID: 7\n", "State:\tSTOPPED\n", "PID: 1\nState: FROZEN\n", "")), _lxc),
    )
)
