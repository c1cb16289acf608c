"""State files that are being written, are somebody else's, or are no files."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import trio
from msgspec import Struct

from nsbroker.daemon.engines import containerd, cri, crun, lxc, podman, runc
from nsbroker.daemon.engines.container import Container, Engine
from nsbroker.daemon.engines.trusted_directory import Folder
from nsbroker.errors import EngineUnavailable


class Pair(Struct):
    a: int


_decoder = msgspec.json.Decoder(Pair)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = tmp_path / "crun"
    (place / "web").mkdir(parents=True)
    return place


@pytest.fixture
def folder(place: Path) -> Iterator[Folder]:
    with Folder(place, 0, "crun") as folder:
        yield folder


def test_a_file_is_read_and_a_missing_one_is_none(place: Path, folder: Folder) -> None:
    (place / "web/status").write_text('{"a": 5}')
    assert folder.load("web/status", _decoder) == Pair(5)
    assert folder.load("web/other", _decoder) is None
    assert folder.load("web/status/below", _decoder) is None
    assert folder.names() == ["web"]
    assert folder.names("missing") == []


@pytest.mark.parametrize("text", ["", "{", '{"a":', '{"a": "x"}', "[]", "\0" * 10, '{"b": 1}'])
def test_what_makes_no_sense_stays_an_error_and_names_the_file(place: Path, folder: Folder, text: str) -> None:
    (place / "web/status").write_text(text)
    with pytest.raises(EngineUnavailable, match="web/status makes no sense"):
        folder.load("web/status", _decoder)


def test_one_that_is_half_written_is_waited_for(place: Path, folder: Folder) -> None:
    file = place / "web/status"
    file.write_text('{"a"')
    timer = threading.Timer(0.015, file.write_text, ['{"a": 7}'])
    timer.start()
    assert folder.load("web/status", _decoder) == Pair(7)
    timer.join()


def test_links_pipes_folders_and_huge_files_are_not_read(place: Path, folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text('{"a": 1}')
    (place / "web/link").symlink_to(tmp_path / "elsewhere")
    (place / "web/up").symlink_to("../../elsewhere")
    os.mkfifo(place / "web/pipe")
    (place / "web/folder").mkdir()
    with open(place / "web/huge", "wb") as huge:
        huge.truncate(5 * 1024 * 1024)
    for name in ("web/link", "web/up", "../elsewhere", "/etc/passwd"):
        with pytest.raises(OSError, match=r"symbolic links|cross-device"):
            folder.read(name)
    for name in ("web/pipe", "web/folder"):
        with pytest.raises(EngineUnavailable, match="no plain file"):
            folder.read(name)
    with pytest.raises(EngineUnavailable, match="larger than"):
        folder.read("web/huge")


def test_what_others_may_write_is_not_believed(place: Path, folder: Folder) -> None:
    file = place / "web/status"
    file.write_text('{"a": 1}')
    file.chmod(0o666)
    with pytest.raises(EngineUnavailable, match="can be written by others"):
        folder.read("web/status")
    place.chmod(0o777)
    with pytest.raises(EngineUnavailable, match="can be written by others"):
        Folder(place, 0, "crun")


@pytest.mark.root
def test_what_belongs_to_somebody_else_is_not_believed(place: Path, folder: Folder) -> None:
    file = place / "web/status"
    file.write_text('{"a": 1}')
    os.chown(file, 4001, 4001)
    with pytest.raises(EngineUnavailable, match="belongs to uid 4001, not to uid 0"):
        folder.read("web/status")
    os.chown(place, 4001, 4001)
    with pytest.raises(EngineUnavailable, match="belongs to uid 4001"):
        Folder(place, 0, "crun")
    Folder(place, 4001, "crun").close()


def test_crun_names_its_containers_by_folder(place: Path) -> None:
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


def test_podman_finds_names_in_every_file_of_every_storage_driver(tmp_path: Path) -> None:
    for driver, file, name in (("overlay", "containers.json", "web"), ("vfs", "volatile-containers.json", "once")):
        (tmp_path / f"{driver}-containers").mkdir()
        (tmp_path / f"{driver}-containers" / file).write_text(f'[{{"id": "{name[0] * 64}", "names": ["{name}"], "layer": "x"}}]')
    engine = podman.Storage(tmp_path, 0)
    assert [one.names for one in engine._find("")] == [("web",), ("once",)]
    assert [one.target for one in engine._find("www")] == ["podman:web"]
    assert engine._find("nothing") == []


def test_a_task_of_containerd_is_read_again_when_its_file_is_another(tmp_path: Path) -> None:
    task = tmp_path / "io.containerd.runtime.v2.task/default/web"
    task.mkdir(parents=True)
    (task / "init.pid").write_text("12")
    (task / "config.json").write_text('{"annotations": {"nerdctl/name": "one"}, "linux": {"cgroupsPath": "/default/web"}}')
    engine = containerd.Containerd(tmp_path)
    assert [(one.names, one.groups, one.pid) for one in engine._find("")] == [(("one", "web"), ("web",), 12)]
    (task / "config.json").unlink()
    (task / "config.json").write_text('{"annotations": {"nerdctl/name": "two"}, "linux": {"cgroupsPath": "s.slice:cri:web"}}')
    (task / "init.pid").write_text("garbage")
    assert [(one.names, one.groups, one.pid) for one in engine._find("")] == [(("two", "web"), ("cri-web.scope",), 0)]
    other = tmp_path / "io.containerd.runtime.v2.task/team/web"
    other.parent.mkdir()
    task.rename(other)
    assert [one.names for one in engine._find("")] == [("team/two", "team/web")]
    assert list(engine._tasks._read) == ["team/web"]


def test_ids_of_nerdctl_and_of_what_runs_below_other_engines_are_no_names(tmp_path: Path) -> None:
    identifier = "ab" * 32
    task = tmp_path / "io.containerd.runtime.v2.task/default" / identifier
    task.mkdir(parents=True)
    (task / "config.json").write_text('{"annotations": {"nerdctl/name": "web"}}')
    (one,) = containerd.Containerd(tmp_path)._find(identifier[:5])
    assert (one.names, one.rule_names(), one.id) == (("web",), ("containerd:web", "container:web"), identifier)
    (tmp_path / "crun" / identifier).mkdir(parents=True)
    (tmp_path / "crun" / identifier / "status").write_text('{"pid": 12, "process-start-time": 34}')
    (one,) = crun.engine(tmp_path / "crun", 0)._read_beginning_with(identifier)
    assert (one.names, one.rule_names(), one.target) == ((), (), f"crun:{identifier}")


def make_runtime(place: Path, file: str, text: str) -> None:
    for name in ("web", "bad"):
        (place / name).mkdir(parents=True)
    (place / "web" / file).write_text(text)
    (place / "bad" / file).write_text("")


def make_crun(place: Path) -> Engine:
    make_runtime(place, "status", '{"pid": 12, "process-start-time": 34}')
    return crun.engine(place, 0)


def make_runc(place: Path) -> Engine:
    make_runtime(place, "state.json", '{"init_process_pid": 12, "init_process_start": 34}')
    return runc.engine(place, 0)


def make_tasks(place: Path, namespace: str, annotations: str) -> None:
    folder = place / "io.containerd.runtime.v2.task" / namespace
    for name in ("web", "bad"):
        (folder / name).mkdir(parents=True)
        (folder / name / "init.pid").write_text("12")
    (folder / "web/config.json").write_text(annotations)
    (folder / "bad/config.json").write_text("[]")


def make_containerd(place: Path) -> Engine:
    make_tasks(place, "default", "{}")
    return containerd.Containerd(place)


def make_cri(place: Path) -> Engine:
    key = "io.kubernetes.cri.sandbox"
    make_tasks(place, "k8s.io", f'{{"annotations": {{"{key}-namespace": "ns", "{key}-name": "pod"}}}}')
    return cri.Cri(place)


def make_podman(place: Path) -> Engine:
    (place / "overlay-containers").mkdir(parents=True)
    entries = f'[{{"id": 5}}, "x", {{"id": "{"c" * 64}", "names": ["bad"]}}, {{"id": "{"d" * 64}", "names": ["web"]}}]'
    (place / "overlay-containers/containers.json").write_text(entries)
    engine = podman.Storage(place, 0)
    make_runtime(place / "crun", "status", '{"pid": 12, "process-start-time": 34}')
    (place / "crun/web").rename(place / "crun" / ("d" * 64))
    (place / "crun/bad").rename(place / "crun" / ("c" * 64))
    engine._runtimes = (crun.engine(place / "crun", 0), runc.engine(place / "runc", 0))
    engine._api = None
    return engine


@pytest.mark.parametrize("make", [make_crun, make_runc, make_containerd, make_cri, make_podman])
async def test_one_that_is_damaged_hides_itself_alone(make: Callable[[Path], Engine], tmp_path: Path) -> None:
    engine = make(tmp_path)

    def words(found: list[Container]) -> list[str]:
        return [one.word for one in found]

    name = "ns/pod" if engine.name == "cri" else "web"
    assert words(await engine.containers()) == [name]
    assert words(await engine.find(name)) == [name]
    with pytest.raises(EngineUnavailable, match="makes no sense"):
        await engine.find("bad")


async def test_a_link_in_the_folder_of_lxc_hides_itself_alone(tmp_path: Path) -> None:
    for name in ("web", "bad"):
        (tmp_path / name).mkdir()
    (tmp_path / "web/config").touch()
    (tmp_path / "bad/config").symlink_to("/etc/passwd")
    (tmp_path / "link").symlink_to("/etc")
    assert [one.word for one in await lxc.Lxc(tmp_path, 0).find("w")] == ["web"]


async def test_one_of_five_thousand_is_found_by_its_name_without_a_look_at_the_others(tmp_path: Path) -> None:
    for number in range(5000):
        (tmp_path / f"c{number}").mkdir()
        (tmp_path / f"c{number}/status").write_text('{"pid": 12, "process-start-time": 34}')
    engine = crun.engine(tmp_path, 0)
    held_up = 0.0

    async def watch() -> None:
        nonlocal held_up
        while True:
            start = trio.current_time()
            await trio.sleep(0.001)
            held_up = max(held_up, trio.current_time() - start)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        start = trio.current_time()
        for number in range(0, 5000, 50):
            assert [one.word for one in await engine.find(f"c{number}")] == [f"c{number}"]
        each = (trio.current_time() - start) / 100
        await engine.find("missing")
        nursery.cancel_scope.cancel()
    assert each < 0.01
    assert held_up < 0.1
