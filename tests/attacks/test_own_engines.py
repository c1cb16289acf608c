"""The broker queries a user's own engines with helper processes.  These tests limit how much of the host that can use up."""

import contextlib
import json
import os
import socket
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.attacks.test_engines import body, served, session  # noqa: F401 - a fixture
from tests.world import ALICE, BOB, Daemon, Sleeper, as_user, eventually

pytestmark = pytest.mark.root
IN_FLIGHT = 100
SECONDS = 6.0


def question(**target: str) -> bytes:
    call = {"method": "io.nsbroker.Broker.Open", "parameters": {"target": target, "types": ["net"]}}
    return json.dumps(call).encode() + b"\0"


def ask_at_once(address: Path, questions: list[bytes], seconds: float, *, stay: bool = False) -> int:
    """Send each question over its own connection; return how many were answered within `seconds`.

    With `stay`, the connections stay open until then.
    """
    with contextlib.ExitStack() as held:
        socks = [held.enter_context(socket.socket(socket.AF_UNIX)) for _ in questions]
        for sock, text in zip(socks, questions, strict=True):
            sock.connect(str(address))
            sock.sendall(text)
        end = time.monotonic() + seconds
        answered = 0
        for sock in socks:
            sock.settimeout(max(end - time.monotonic(), 0.001))
            with contextlib.suppress(TimeoutError):
                answered += bool(sock.recv(4096))
        if stay:
            time.sleep(max(end - time.monotonic(), 0))
        return answered


def children(pid: int) -> list[str]:
    """Return the pids of the children of a process, of all its threads."""
    found: list[str] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += (task / "children").read_text().split()
    return found


def processor_time(pid: int) -> float:
    """Return the seconds of processor time that the ended children of a process used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture
def containers(session: Path) -> None:  # noqa: F811 - the fixture
    """Alice's own engine has many containers, so that searching for one takes a while."""

    def make() -> None:
        for number in range(2000):
            (session / f"crun/c{number}").mkdir(parents=True)
            (session / f"crun/c{number}/status").write_text("{")

    as_user(ALICE, make)


def times(daemon: Daemon, target: str, is_over: Callable[[], bool]) -> list[float]:
    found: list[float] = []
    with daemon.connect() as broker:
        while len(found) < 100 or not is_over():
            start = time.monotonic()
            broker.open(target, "net").close()
            found.append(time.monotonic() - start)
            time.sleep(0.002)
    return sorted(found)


def test_many_different_queries_use_a_small_part_of_a_processor(daemon: Daemon, containers: None, sleeper: Sleeper) -> None:
    daemon.allow("bob", who=[f"user:{BOB}"], targets=[f"pid:{sleeper.pid}"], namespaces=["net"])
    target = f"pid:{sleeper.pid}"
    idle = as_user(BOB, lambda: times(daemon, target, lambda: True))
    questions = [question(container=f"x{number}") for number in range(IN_FLIGHT)]
    end = time.monotonic() + SECONDS
    attack = threading.Thread(target=lambda: as_user(ALICE, lambda: ask_at_once(daemon.socket, questions, SECONDS, stay=True)))
    before = processor_time(daemon.pid)
    attack.start()
    busy = as_user(BOB, lambda: times(daemon, target, lambda: time.monotonic() > end))
    attack.join()
    used = processor_time(daemon.pid) - before
    print(f"helpers used {used / SECONDS:.2f} of a processor; "
          f"bob's p99 {busy[int(len(busy) * 0.99)] * 1000:.1f} ms, idle {statistics.median(idle) * 1000:.1f} ms")  # fmt: skip
    assert 0 < used < 0.35 * SECONDS
    assert busy[int(len(busy) * 0.99)] < 20 * max(statistics.median(idle), 0.001)


def test_callers_with_the_same_query_share_a_result_that_is_newer_than_their_call(
    daemon: Daemon,
    session: Path,  # noqa: F811 - the fixture
) -> None:
    asked = []

    def answer(sock: socket.socket) -> None:
        asked.append(sock.fileno())
        sock.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    with served(session / "docker.sock", answer):
        questions = [question(container="web", engine="docker")] * 30
        answered = as_user(ALICE, lambda: ask_at_once(daemon.socket, questions, 10))
        assert answered == 30
        # Callers that came while the first helper ran wait for the second.
        assert 1 <= len(asked) <= 2
        as_user(ALICE, lambda: ask_at_once(daemon.socket, questions[:1], 4))
        assert len(asked) <= 3


def test_helpers_run_one_at_a_time_with_the_lowest_priority(daemon: Daemon, session: Path) -> None:  # noqa: F811 - the fixture
    with served(session / "docker.sock", lambda sock: time.sleep(0.5)):
        questions = [question(container=f"x{number}", engine="docker") for number in range(3)]
        thread = threading.Thread(target=lambda: as_user(ALICE, lambda: ask_at_once(daemon.socket, questions, 3, stay=True)))
        thread.start()
        eventually(lambda: bool(children(daemon.pid)), "one is asked")
        nice: set[int] = set()
        while thread.is_alive():
            found = children(daemon.pid)
            assert len(found) <= 1
            for pid in found:
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    nice.add(int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[16]))
            time.sleep(0.01)
        thread.join()
        # A helper may still be at 0 in the moment between its start and the broker's setpriority(2).
        assert nice <= {0, 19}
        assert 19 in nice
