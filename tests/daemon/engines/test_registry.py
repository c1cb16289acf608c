"""Queries to engines that misbehave, and the choice among the containers that engines return.

The servers that lie, stall and hang up are written here, because no real engine can be told to do that.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from nsbroker.daemon.engines.container import Container, State
from nsbroker.daemon.engines.query import EngineQuery, QueryResult
from nsbroker.daemon.engines.registry import Ask, EngineRegistry, distinct
from nsbroker.daemon.limits.abandonable_threads import AbandonableThreads
from nsbroker.errors import AmbiguousTarget, EngineUnavailable, NoSuchTarget, NsbrokerError
from nsbroker.linux.process import Process
from nsbroker.model.target import ENGINES, Target
from tests.world import PATIENCE, SLOWNESS, Daemon, Sleeper

DEADLINE = 0.3 * SLOWNESS
"""How many seconds the engines have that do not answer."""
ID = "ab" * 32
OTHER_ID = "ab" * 31 + "cd"
OFF: dict[str, list[str]] = {name: [] for name in ENGINES}


@contextlib.contextmanager
def server(path: Path, answer: Callable[[socket.socket, bytes], None]) -> Iterator[None]:
    """Serve one connection after the other at `path`.  `answer` is called with each and the first bytes of its request."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock, contextlib.suppress(OSError):
                answer(sock, sock.recv(65536))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        # This ends accept(), which closing the socket does not.
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        path.unlink()


def says(body: bytes, status: bytes = b"200 OK") -> Callable[[socket.socket, bytes], None]:
    head = b"HTTP/1.1 " + status + b"\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    return lambda sock, _: sock.sendall(head + body)


def inspected(pid: object, status: str = "running", name: str = "/web", identifier: str = ID) -> bytes:
    return (
        f'{{"Id":"{identifier}","Name":"{name}","State":{{"Status":"{status}","Pid":{pid}}},"Config":{{"Labels":null}}}}'.encode()
    )


def endless(sock: socket.socket, request: bytes) -> None:
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
    for _ in range(100):
        sock.sendall(b" " * 1_000_000)


def silent(sock: socket.socket, request: bytes) -> None:
    """Answer nothing until the broker hangs up, or long enough."""
    sock.settimeout(3 * DEADLINE)
    sock.recv(1)


def query(may_know: Callable[[Container], bool] = lambda _: True) -> EngineQuery:
    return EngineQuery(0, 0, 0, with_rootless=False, may_name=lambda _: True, may_know=may_know)


async def find(engines: EngineRegistry, target: str) -> Container:
    container, process = await engines.find(Target.parse(target), query())
    process.close()
    return container


def docker(path: Path, deadline: float = PATIENCE) -> EngineRegistry:
    return EngineRegistry({**OFF, "docker": [str(path)]}, deadline, AbandonableThreads(8))


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (says(b"{"), EngineUnavailable, "makes no sense"),
        (says(b"[]"), EngineUnavailable, "makes no sense"),
        (says(b"\xff\xfe"), EngineUnavailable, "makes no sense"),
        (says(b'{"Id":5}'), EngineUnavailable, "makes no sense"),
        (says(b"", b"404 Not Found"), NoSuchTarget, "no container has that name"),
        (says(b"", b"500 Oops"), EngineUnavailable, "status 500"),
        (says(b"", b"301 Moved"), EngineUnavailable, "status 301"),
        (says(inspected(0)), EngineUnavailable, "does not name its process"),
        (says(inspected(-1)), EngineUnavailable, "process -1 for web, which is no valid process number"),
        (says(inspected(2**40)), EngineUnavailable, "which is no valid process number"),
        (says(inspected(2**31 - 1)), NoSuchTarget, "has ended"),
        (says(inspected(os.getpid())), NoSuchTarget, "is not the container's"),
        (says(inspected(1)), NoSuchTarget, "is not the container's"),
        (says(inspected(0, "exited")), NoSuchTarget, "start it first"),
        (says(inspected(0, "created")), NoSuchTarget, "not started yet"),
        (says(inspected(0, "restarting")), NoSuchTarget, "try again"),
        (says(inspected(1, name="/a b\\n")), NoSuchTarget, "no container has that name"),
        (says(b"[" * 200_000), EngineUnavailable, "makes no sense"),
        (lambda sock, _: sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"), EngineUnavailable, "without sending"),
        (lambda sock, _: sock.sendall(b"SSH-2.0-x\r\n\r\n"), EngineUnavailable, "illegal"),
        (lambda sock, _: None, EngineUnavailable, "hung up without an answer"),
        (endless, EngineUnavailable, "more than 4194304 bytes"),
        (silent, EngineUnavailable, f"no answer in {DEADLINE:g} s"),
    ],
    ids=str,
)
async def test_an_answer_that_makes_no_sense_is_another_error_than_an_unknown_container(
    path: Path, answer: Callable[[socket.socket, bytes], None], error: type[NsbrokerError], text: str
) -> None:
    with server(path, answer), pytest.raises(error, match=text):
        await find(docker(path, DEADLINE if answer is silent else PATIENCE), "docker:web")


async def test_an_engine_that_is_turned_off_is_named_as_turned_off() -> None:
    with pytest.raises(EngineUnavailable, match="turned off"):
        await find(EngineRegistry(OFF, 1.0, AbandonableThreads(8)), "docker:web")
    with pytest.raises(NoSuchTarget, match="no container has"):
        await find(EngineRegistry(OFF, 1.0, AbandonableThreads(8)), "container:web")


async def test_an_engine_that_no_rule_names_is_not_said_to_be_missing(path: Path) -> None:
    path.touch()
    query = EngineQuery(1, 1, 1, with_rootless=False, may_name=lambda _: False, may_know=lambda _: False)
    with pytest.raises(EngineUnavailable, match="no rule names it for this user"):
        await docker(path, PATIENCE).find(Target.parse("docker:web"), query)
    path.unlink()


async def test_a_silent_engine_delays_only_one_query_and_those_that_name_it(path: Path) -> None:
    engines = docker(path, DEADLINE)
    with server(path, silent):
        for target, slow in (("container:web", True), ("container:web", False), ("docker:web", True)):
            start = time.monotonic()
            with pytest.raises(EngineUnavailable):
                await find(engines, target)
            assert (time.monotonic() - start > 0.9 * DEADLINE) is slow, target
    # Once it answers, queries to all engines include it again.
    with server(path, says(b"", b"404 Not Found")):
        for target in ("docker:web", "container:web"):
            with pytest.raises(NoSuchTarget):
                await find(engines, target)


async def test_an_engine_that_was_late_once_is_queried_again_as_soon_as_it_answers(path: Path) -> None:
    may_answer = threading.Event()

    def answer(sock: socket.socket, request: bytes) -> None:
        may_answer.wait()
        says(b"", b"404 Not Found")(sock, request)

    async def ask() -> str:
        with pytest.raises((EngineUnavailable, NoSuchTarget)) as caught:
            await find(engines, "container:web")
        return str(caught.value)

    engines = docker(path, DEADLINE)
    with server(path, answer):
        try:
            assert "no answer in" in await ask()
            assert "a moment ago" in await ask()
        finally:
            may_answer.set()
        with trio.fail_after(PATIENCE):
            while "no container has that name" not in await ask():
                await trio.sleep(0.01)


@pytest.mark.root
def test_containers_of_one_engine_are_found_while_another_is_silent(path: Path, daemon: Daemon, sleeper: Sleeper) -> None:
    place = daemon.folder / "crun"
    (place / "web").mkdir(parents=True)
    with Process.open(sleeper.pid) as process:
        (place / "web/status").write_text(f'{{"pid":{sleeper.pid},"process-start-time":{process.start_time()}}}')
    config = f'[limits]\nengine-deadline = {DEADLINE}\n[engines]\ndocker = ["{path}"]\ncrun = ["{place}"]\n'
    (daemon.config / "nsbroker.d/engines.toml").write_text(config)
    daemon.reload()
    with server(path, silent), daemon.connect() as broker:
        for target, slow, found in (
            ("crun:web", False, True),
            # The silent engine may have a container `web`, too.
            ("container:web", True, False),
            ("container:web", False, False),
            ("docker:web", True, False),
            ("crun:web", False, True),
        ):
            start = time.monotonic()
            engines = []
            try:
                with broker.open(target, "net") as ns:
                    assert ns.inode == sleeper.inode("net")
            except EngineUnavailable as error:
                engines.append(error.engine)
            assert engines == ([] if found else ["docker"]), target
            assert (time.monotonic() - start > 0.9 * DEADLINE) is slow, target
        listed = broker.containers()
        assert [one.names for one in listed.containers] == [["web"]]
        assert "docker" in [one.engine for one in listed.unavailable]


async def test_an_engine_that_restarted_is_queried_again_at_the_next_call(path: Path) -> None:
    engines = docker(path)
    for _ in range(3):
        with server(path, lambda sock, _: None), pytest.raises(EngineUnavailable):
            await find(engines, "docker:web")
        with server(path, says(inspected(0, "exited"))), pytest.raises(NoSuchTarget, match="start it first"):
            await find(engines, "docker:web")


async def test_a_container_that_restarted_before_it_was_pinned_is_looked_up_once_more(path: Path) -> None:
    answers = iter([2**31 - 1, 2**31 - 2])
    requests: list[bytes] = []

    def answer(sock: socket.socket, request: bytes) -> None:
        requests.append(request)
        says(inspected(next(answers)))(sock, request)

    with server(path, answer), pytest.raises(NoSuchTarget, match="has ended"):
        await find(docker(path), "docker:web")
    assert len(requests) == 2


async def test_only_the_start_time_of_a_process_is_read_on_a_thread(sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading it can block, unlike the control group."""
    threads: list[threading.Thread] = []
    pin = Container.pin

    def pin_and_note(container: Container) -> Process:
        threads.append(threading.current_thread())
        return pin(container)

    monkeypatch.setattr(Container, "pin", pin_and_note)
    engines = EngineRegistry(OFF, PATIENCE, AbandonableThreads(8))
    with Process.open(sleeper.pid) as process:
        started = process.start_time()
    by_start = Container(engine="crun", id="a", names=("a",), state=State.RUNNING, pid=sleeper.pid, start_time=started)
    (await engines.pin(by_start, 0)).close()
    assert threads.pop() is not threading.main_thread()
    by_group = Container(engine="docker", id="a", names=("a",), state=State.RUNNING, pid=sleeper.pid, groups=("no-such",))
    with pytest.raises(NoSuchTarget, match="is not the container's"):
        await engines.pin(by_group, 0)
    assert threads.pop() is threading.main_thread()


class Caller:
    """A pinned process in made-up control groups: no test may create groups of these names on every machine."""

    def __init__(self, path: str) -> None:
        self._path = path

    def cgroups(self) -> dict[str, str]:
        return {"": self._path}


@pytest.mark.parametrize(
    ("group", "asked"),
    [
        ("/system.slice/cron.service", []),
        (f"/docker/{ID}", [ID]),
        (f"/system.slice/docker-{ID}.scope/below", [ID]),
        (f"/docker/{ID}/docker/{OTHER_ID}", [ID, OTHER_ID]),
        ("".join(f"/{number:064x}" for number in range(9)), [f"{number:064x}" for number in range(4)]),
        (f"/user.slice/user-7.slice/user@7.service/{ID}/{OTHER_ID}", []),
        (f"/user.slice/{ID}", []),
        (f"/docker/{ID}/user.slice/{OTHER_ID}", [ID]),
        (f"/not-user.slice/{ID}", [ID]),
    ],
)
async def test_who_looks_for_a_callers_container_asks_only_about_those_that_it_can_be_in(
    path: Path, group: str, asked: list[str]
) -> None:
    """Otherwise, each caller would cost as many questions as the host has containers."""
    questions: list[str] = []

    def answer(sock: socket.socket, request: bytes) -> None:
        questions.append(request.split(b"/")[2].decode())
        says(b"", b"404 Not Found")(sock, request)

    with server(path, answer):
        caller: Any = Caller(group)
        assert await docker(path).find_workload(caller, query()) == (None, [])
    assert questions == asked


async def test_a_cancelled_query_leaves_nothing_behind(path: Path) -> None:
    with server(path, silent):
        with trio.move_on_after(0.1) as scope:
            await find(docker(path), "docker:web")
        assert scope.cancelled_caught


def container(engine: str, name: str, identifier: str = "", pid: int = 0, user: int = 0) -> Container:
    return Container(engine=engine, id=identifier or name, names=(name,), state=State.RUNNING, pid=pid, user=user)


class Fixed(EngineRegistry):
    """Engines with the containers that a test gives."""

    def __init__(self, *containers: Container) -> None:
        super().__init__({}, 1.0, AbandonableThreads(8))
        self._all = containers

    async def _query_root(self, ask: Ask, name: str, query: EngineQuery) -> QueryResult:
        return QueryResult(list(self._all), [])

    async def choose(self, target: str, may_know: Callable[[Container], bool] = lambda _: True) -> str:
        return (await self._find(Target.parse(target), query(may_know))).target


async def test_an_exact_name_beats_an_exact_id_and_an_exact_id_beats_the_beginning_of_one() -> None:
    by_name, by_id, by_start = container("docker", "abc"), container("podman", "x", "abc"), container("crun", "abcd")
    assert await Fixed(by_start, by_id, by_name).choose("container:abc") == "docker:abc"
    assert await Fixed(by_start, by_id).choose("container:abc") == "podman:x"
    assert await Fixed(by_start).choose("container:abc") == "crun:abcd"


async def test_candidates_of_an_ambiguous_name_are_targets_that_fit_one_container_only() -> None:
    two = Fixed(container("docker", "web", "1" * 64), container("podman", "web", "2" * 64))
    with pytest.raises(AmbiguousTarget) as ambiguous:
        await two.choose("container:web")
    assert ambiguous.value.candidates == ["docker:web", "podman:web"]
    same = Fixed(container("docker", "web", "1" * 64), container("docker", "web", "2" * 64))
    with pytest.raises(AmbiguousTarget) as ambiguous:
        await same.choose("docker:web")
    assert ambiguous.value.candidates == [f"docker:{'1' * 64}", f"docker:{'2' * 64}"]


async def test_containers_that_the_peer_may_not_know_of_change_nothing() -> None:
    engines = Fixed(container("docker", "web"), container("podman", "web"))
    assert await engines.choose("container:web", lambda one: one.engine == "podman") == "podman:web"
    with pytest.raises(NoSuchTarget):
        await engines.choose("container:web", lambda one: False)


def test_a_process_that_several_engines_know_is_one_container_of_the_first() -> None:
    found = distinct([container("runc", ID, pid=7), container("docker", "web", ID, pid=7), container("crun", "x", pid=8)])
    assert [one.target for one in found] == ["docker:web", "crun:x"]


def test_every_engine_is_a_module_with_its_name() -> None:
    from importlib import import_module

    for name in ENGINES:
        module = import_module(f"nsbroker.daemon.engines.{name}")
        assert module.PLACES
        assert module.engine(Path(module.PLACES[0]), 0).name == name
