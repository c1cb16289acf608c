"""State files that are being written, are somebody else's, or are no files."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec import Struct

from nsbroker.daemon.engines import containerd, crun, podman
from nsbroker.daemon.engines.state_files import Folder
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
    assert [(one.names, one.groups, one.pid) for one in engine._all("")] == [(("one", "web"), ("web",), 12)]
    (task / "config.json").unlink()
    (task / "config.json").write_text('{"annotations": {"nerdctl/name": "two"}, "linux": {"cgroupsPath": "s.slice:cri:web"}}')
    (task / "init.pid").write_text("garbage")
    assert [(one.names, one.groups, one.pid) for one in engine._all("")] == [(("two", "web"), ("cri-web.scope",), 0)]
    other = tmp_path / "io.containerd.runtime.v2.task/team/web"
    other.parent.mkdir()
    task.rename(other)
    assert [one.names for one in engine._all("")] == [("team/two", "team/web")]
    assert list(engine._tasks._read) == ["team/web"]
