"""Containers of crun, read from its state directory."""

import time
from pathlib import Path

import trio

from nsbroker.daemon.engines import crun


def test_crun_names_its_containers_by_directory(place: Path) -> None:
    (place / "web/status").write_text('{"pid": 12, "process-start-time": 34}')
    (place / "web2").mkdir()
    (place / "web2/status").write_text('{"pid": 56, "process-start-time": 78}')
    (place / "web2/exec.fifo").touch()
    engine = crun.engine(place, 0)
    (exact,) = engine._read_beginning_with("web")
    assert (exact.target, exact.pid, exact.start_time, exact.state) == ("crun:web", 12, 34, "running")
    assert [(one.target, one.state) for one in engine._read_beginning_with("w")] == [
        ("crun:web", "running"),
        ("crun:web2", "created"),
    ]


async def test_one_of_five_thousand_containers_is_found_by_its_name_without_reading_the_others(tmp_path: Path) -> None:
    for number in range(5000):
        (tmp_path / f"c{number}").mkdir()
        (tmp_path / f"c{number}/status").write_text('{"pid": 12, "process-start-time": 34}')
    engine = crun.engine(tmp_path, 0)
    held_up = 0.0

    async def watch() -> None:
        nonlocal held_up
        while True:
            # The time of this thread's processor: the machine may be busy with something else.
            start = time.thread_time()
            await trio.sleep(0.001)
            held_up = max(held_up, time.thread_time() - start)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        start = time.process_time()
        for number in range(0, 5000, 50):
            assert [one.word for one in await engine.find(f"c{number}")] == [f"c{number}"]
        each = (time.process_time() - start) / 100
        await engine.find("missing")
        nursery.cancel_scope.cancel()
    assert each < 0.01
    assert held_up < 0.1


async def test_what_is_below_the_folder_of_a_container_is_no_container(place: Path) -> None:
    """crun mounts such a folder into the container for sd_notify(3), and its root can write files there."""
    (place / "web/status").write_text('{"pid": 12, "process-start-time": 34}')
    (place / "web/notify").mkdir()
    (place / "web/notify/status").write_text('{"pid": 1, "process-start-time": 1}')
    engine = crun.engine(place, 0)
    assert [one.word for one in await engine.find("web")] == ["web"]
    assert await engine.find("web/notify") == []
    assert engine.first_process("web/notify") is None
