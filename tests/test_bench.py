"""`make bench`: its parts work, and what is missing or fails costs one row of the table alone."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.bench import __main__ as bench
from tests.bench import discovery, opening, pace, profile, rivals, versions
from tests.bench.pace import CpuTime
from tests.bench.table import BEFORE, NOW, LeftOut, Measure, Row, at_least, at_most, left_out, plain, show
from tests.bench.versions import CHECKOUT, Version, serve
from tests.bench.wire import TYPES, Line, call, open_call, socket_call
from tests.world import Sleeper


@pytest.mark.once
def test_a_goal_is_met_at_its_ratio_and_beyond() -> None:
    assert at_most(2.0).verdict(2.0) == "met"
    assert at_most(2.0, 1.5).verdict(1.4) == "met, and the stretch"
    assert at_most(2.0, 1.5).verdict(2.1) == "NOT MET"
    assert at_least(0.6, 0.8).verdict(0.7) == "met"
    assert at_least(0.6, 0.8).verdict(0.5) == "NOT MET"


@pytest.mark.once
def test_the_table_shows_both_versions_and_what_was_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    measures = {NOW: Measure("20 us", 2.0), BEFORE: Measure("30 us", 3.0)}
    show(
        [
            plain("bare", "10 us"),
            Row("ours", measures, "of bare", at_most(2.5)),
            Row("alone", {NOW: Measure("20 us")}, "of Go", at_most(1)),
            left_out("Go", "no\ncompiler"),
        ],
        compared=True,
    )
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == "bare 10 us"
    assert lines[2] == "ours 30 us 20 us 3.00 -> 2.00 of bare <= 2.5 met"
    assert lines[3] == "alone 20 us <= 1 not measured"
    assert lines[4] == "Go left out: no compiler"
    assert lines[6] == "1 of 2 goals are met. 1 rows are left out."


@pytest.mark.once
def test_a_subject_that_fails_becomes_a_row() -> None:
    def missing(found: Mapping[str, Version], pid: int) -> list[Row]:
        raise LeftOut("no such program")

    def broken(found: Mapping[str, Version], pid: int) -> list[Row]:
        raise ProcessLookupError("it ended meanwhile")

    assert bench.measure("it", missing, {}, 1) == [left_out("it", "no such program")]
    assert bench.measure("it", broken, {}, 1) == [left_out("it", "ProcessLookupError: it ended meanwhile")]


@pytest.mark.once
@pytest.mark.parametrize(("each", "count"), [(0.1, 31), (1.0, 10), (5.0, 3), (12.0, 2), (60.0, 1)])
def test_turns_end_with_the_time_but_a_median_needs_three(monkeypatch: pytest.MonkeyPatch, each: float, count: int) -> None:
    # A clock that advances by a turn whenever it is read.
    moments = itertools.count(0.0, each)
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: next(moments)))
    assert list(pace.turns(10.0)) == list(range(count))


@pytest.mark.once
def test_the_cpu_time_of_a_process_includes_that_of_its_ended_threads() -> None:
    def work() -> None:
        end = time.thread_time() + 0.05
        while time.thread_time() < end:
            pass

    before = CpuTime.of(os.getpid())
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert CpuTime.of(os.getpid()).total - before.total >= 0.05


@pytest.mark.parametrize("name", [rivals.BARE, rivals.GO, rivals.ASYNCVARLINK])
def test_a_rival_hands_over_the_namespace(name: str, sleeper: Sleeper) -> None:
    with rivals.start(sleeper.pid, [name]) as (servers, missing):
        if name in missing:
            assert missing[name].startswith(("no Go compiler", "cannot write to"))
            pytest.skip(missing[name])
        with Line(servers[name].path) as line:
            line.check(servers[name].call, 1)
            inode = str(sleeper.inode("net")).encode()
            assert name == rivals.ASYNCVARLINK or inode in line.ask(servers[name].call)[0]


@pytest.mark.parametrize("name", [rivals.BARE, rivals.GO])
def test_a_rival_hands_over_all_types_with_calls_in_flight(name: str, sleeper: Sleeper) -> None:
    with rivals.start(sleeper.pid, [name]) as (servers, missing):
        if name in missing:
            pytest.skip(missing[name])
        with Line(servers[name].path) as line:
            line.check(open_call(sleeper.pid, *TYPES), len(TYPES))
            assert len(line.in_flight(open_call(sleeper.pid, *TYPES), 4, 100)) == 1


@pytest.mark.root
def test_the_broker_of_a_version_is_run_as_a_command_and_asked_over_the_wire(sleeper: Sleeper) -> None:
    with serve(Version(CHECKOUT), sleeper.pid, rules=10) as broker, Line(broker.server.path) as line:
        line.check(broker.server.call, 1)
        line.check(socket_call(sleeper.pid), 1)
        assert line.stream(call("List", more=True)) > 0
        assert len(line.one_by_one(broker.server.call, 10)) == 10
        with pytest.raises(LeftOut, match=r"0 fds came instead of 1: .*NoSuchTarget"):
            line.check(open_call(4_000_000), 1)
        for what, times in (("tasks", 1), ("blocking", 64)):
            with broker.client(sleeper.pid, what) as client:
                assert len(client.run(64)) == times


@pytest.mark.root
def test_a_broker_that_does_not_start_is_left_out_with_its_last_words() -> None:
    with pytest.raises(LeftOut, match="nonsense"), serve(Version(CHECKOUT), more="nonsense = 1\n"):
        pass


@pytest.mark.once
def test_a_version_is_proved_to_be_the_one_that_python_imports(tmp_path: Path) -> None:
    with pytest.raises(LeftOut, match="which is not in"):
        Version(tmp_path).prove()
    shutil.copytree(CHECKOUT / "nsbroker", tmp_path / "nsbroker", ignore=shutil.ignore_patterns("__pycache__"))
    assert Version(tmp_path).prove() == str(tmp_path / "nsbroker")
    (tmp_path / "nsbroker/cli/main.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(LeftOut, match="nothing_of_that_name"):
        Version(tmp_path).prove()


@pytest.mark.once
@pytest.mark.skipif(shutil.which("git") is None, reason="git is missing")
def test_an_older_commit_is_unpacked_and_imported_beside_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> None:
        author = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.com", "-c", "safe.directory=*")
        subprocess.run(["git", *author, "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    shutil.copytree(CHECKOUT / "nsbroker", tmp_path / "nsbroker", ignore=shutil.ignore_patterns("__pycache__"))
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    (tmp_path / "nsbroker/later.py").touch()
    monkeypatch.setattr(versions, "CHECKOUT", tmp_path)
    for _ in range(2):
        found = versions.find("HEAD")
        assert found[NOW].folder == tmp_path
        assert found[BEFORE].folder.parent == tmp_path / "build/before"
        assert not (found[BEFORE].folder / "nsbroker/later.py").exists()
    assert len(list((tmp_path / "build/before").iterdir())) == 1


@pytest.mark.once
@pytest.mark.parametrize("count", [0, 20])
def test_a_crowd_ends_while_other_processes_start_and_end(count: int) -> None:
    stop = threading.Event()

    def disturb() -> None:
        while not stop.is_set():
            subprocess.run(["true"], check=True)

    others = threading.Thread(target=disturb)
    others.start()
    try:
        with discovery.crowd(count):
            assert _sleepers() == count
        assert _sleepers() == 0
    finally:
        stop.set()
        others.join()


def _sleepers() -> int:
    """Count the processes of a crowd below this process."""
    count = 0
    for parent in _children(os.getpid()):
        count += sum(Path(f"/proc/{child}/comm").read_text() == "sleep\n" for child in _children(parent))
    return count


def _children(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").glob("*/children"))
        return [int(child) for task in tasks for child in task.read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


@pytest.mark.root
def test_a_missing_compiler_costs_one_row_and_its_goal(sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # The interpreter is the only program left.
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(opening, "turns", lambda seconds: range(1))
    rows = opening.pipelined({NOW: Version(CHECKOUT)}, sleeper.pid)
    cells = {row.work: row.cells(compared=False) for row in rows}
    assert cells["32 in flight: Go daemon"][1].startswith("left out: no Go compiler")
    assert cells["32 in flight: nsbroker"][-1] == "not measured"
    assert cells["  its CPU"][-1] in ("met, and the stretch", "met", "NOT MET")
    rows = opening.one_by_one({NOW: Version(CHECKOUT)}, sleeper.pid)
    assert [row for row in rows if row.work == "one by one: C pair"] == [left_out("one by one: C pair", "no C compiler")]


def test_the_bench_says_which_commit_it_does_not_know() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench"], env={**os.environ, "BEFORE": "nowhere"}, cwd=CHECKOUT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "BEFORE=nowhere is not a commit here" in done.stderr or "git is missing" in done.stderr


@pytest.mark.once
def test_the_profile_has_the_functions_that_a_program_spends_its_time_in(tmp_path: Path) -> None:
    (tmp_path / "busy.py").write_text(
        "import time\n"
        "import trio\n"
        "def work():\n"
        "    end = time.process_time() + 0.5\n"
        "    while time.process_time() < end:\n"
        "        pass\n"
        "def start():\n"
        "    work()\n"
        "async def serve():\n"
        "    work()\n"
        "start()\n"
        "trio.run(serve)\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{CHECKOUT}:{tmp_path}"}
    subprocess.run(
        [sys.executable, "-m", "tests.bench.sampling", str(tmp_path / "counts"), "busy"], cwd="/", env=environment, check=True
    )
    counts = {(Path(file).name, function): times for file, function, times in json.loads((tmp_path / "counts").read_text())}
    assert counts["busy.py", "work"] > sum(counts.values()) / 2
    # Half a second at a tick of a millisecond or, in some kernels, of four: what it did before it served is left out.
    assert sum(counts.values()) < 800


def test_the_profile_puts_functions_together_by_the_part_of_the_program() -> None:
    parts = {
        "nsbroker/daemon/limits/fair_queue.py: Turn.count_call": "nsbroker/daemon/limits",
        "nsbroker/daemon/audit.py: Audit.record": "nsbroker/daemon",
        "nsbroker/linux/pidfd.py: has_ended": "nsbroker/linux",
        ".venv/lib/python3.13/site-packages/trio/_core/_run.py: unrolled_run": "trio",
        "outcome/_impl.py: Value.unwrap": "outcome",
        "collections/__init__.py: UserDict.__contains__": "Python's standard library, others",
        "<attrs generated methods outcome._impl.Value>: __init__": "Python's standard library, others",
    }
    assert {name: profile.part_of(name) for name in parts} == parts
