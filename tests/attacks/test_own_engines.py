"""The broker queries a user's own engines with helper processes.  These tests limit how much of the host that can use up."""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.attacks.test_engines import body, served, session  # noqa: F401 - a fixture
from tests.world import ALICE, BOB, PATIENCE, PATIENT, Daemon, Sleeper, as_user, check_below, eventually

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
    """Return the pids of the children of a process, of all its threads, but for those that have begun to end.

    On a busy machine, it can take a while to end.
    """
    found: list[str] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += (task / "children").read_text().split()
    return [child for child in found if _has_memory(child)]


def _has_memory(pid: str) -> bool:
    """Return whether a process has a command line: the kernel frees the memory of a process that ends before anything else."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return False


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


def test_many_different_queries_use_a_small_part_of_a_processor(
    tmp_path: Path,
    session: Path,  # noqa: F811 - the fixture
    containers: None,
    sleeper: Sleeper,
) -> None:
    with Daemon(tmp_path, limits=PATIENT) as daemon:
        daemon.allow("bob", who=[f"user:{BOB}"], targets=[f"pid:{sleeper.pid}"], namespaces=["net"])
        check_below(20, lambda: attack(daemon, f"pid:{sleeper.pid}"), "bob's slow calls during the attack, of those before it")


def attack(daemon: Daemon, target: str) -> float:
    """Have alice query her engines while bob opens `target`.

    Checks how much of a processor the helpers use, which does not depend on what else the machine does.  Returns how many times
    longer bob's slow calls take than before.
    """
    # On a busy machine, calls wait for a processor before the attack, too.
    idle = p99(as_user(BOB, lambda: times(daemon, target, lambda: True)))
    questions = [question(container=f"x{number}") for number in range(IN_FLIGHT)]
    start, before = time.monotonic(), processor_time(daemon.pid)
    end = start + SECONDS
    attacker = threading.Thread(target=lambda: as_user(ALICE, lambda: ask_at_once(daemon.socket, questions, SECONDS, stay=True)))
    attacker.start()
    busy = p99(as_user(BOB, lambda: times(daemon, target, lambda: time.monotonic() > end)))
    attacker.join()
    eventually(lambda: processor_time(daemon.pid) > before, "a helper has ended")
    used, seconds = processor_time(daemon.pid) - before, time.monotonic() - start
    print(f"helpers used {used / seconds:.2f} of a processor; bob's p99 {busy * 1000:.1f} ms, idle {idle * 1000:.1f} ms")
    assert used < 0.35 * seconds
    return busy / max(idle, 0.001)


def p99(times: list[float]) -> float:
    """Return what 99 of 100 of the sorted times are at most."""
    return times[int(len(times) * 0.99)]


def test_callers_with_the_same_query_share_a_result_that_is_newer_than_their_call(
    tmp_path: Path,
    session: Path,  # noqa: F811 - the fixture
) -> None:
    asked = []

    def answer(sock: socket.socket) -> None:
        asked.append(sock.fileno())
        sock.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    with served(session / "docker.sock", answer), Daemon(tmp_path, limits=PATIENT) as daemon:
        questions = [question(container="web", engine="docker")] * 30
        answered = as_user(ALICE, lambda: ask_at_once(daemon.socket, questions, 2 * PATIENCE))
        assert answered == 30
        # Callers that came while the first helper ran wait for the second.
        assert 1 <= len(asked) <= 2
        before = len(asked)
        as_user(ALICE, lambda: ask_at_once(daemon.socket, questions[:1], 2 * PATIENCE))
        assert len(asked) == before + 1


def test_helpers_run_one_at_a_time_with_a_lower_priority(daemon: Daemon, session: Path) -> None:  # noqa: F811 - the fixture
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
        assert nice <= {0, 5}
        assert 5 in nice
