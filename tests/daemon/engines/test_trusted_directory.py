"""State files that are being written, that belong to somebody else, or that are no plain files."""

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import AsyncMock

import msgspec
import pytest
from msgspec import Struct

from nsbroker.daemon.engines import containerd, cri, crun, oci_runtime, podman, runc, trusted_directory
from nsbroker.daemon.engines.container import Container, Engine
from nsbroker.daemon.engines.trusted_directory import TrustedDirectory
from nsbroker.errors import EngineUnavailable


class Pair(Struct):
    a: int


_decoder = msgspec.json.Decoder(Pair)


@pytest.fixture
def directory(place: Path) -> Iterator[TrustedDirectory]:
    with TrustedDirectory(place, 0, "crun") as directory:
        yield directory


def test_a_file_is_read_and_a_missing_one_is_none(place: Path, directory: TrustedDirectory) -> None:
    (place / "web/status").write_text('{"a": 5}')
    assert directory.load("web/status", _decoder) == Pair(5)
    assert directory.load("web/other", _decoder) is None
    assert directory.load("web/status/below", _decoder) is None
    assert directory.names() == ["web"]
    assert directory.names("missing") == []


@pytest.mark.parametrize("text", ["", "{", '{"a":', '{"a": "x"}', "[]", "\0" * 10, '{"b": 1}'])
def test_contents_that_make_no_sense_are_an_error_that_names_the_file(place: Path, directory: TrustedDirectory, text: str) -> None:
    (place / "web/status").write_text(text)
    with pytest.raises(EngineUnavailable, match="web/status makes no sense"):
        directory.load("web/status", _decoder)


def test_a_half_written_file_is_read_again(place: Path, directory: TrustedDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written to its end while the reader pauses."""
    file = place / "web/status"
    file.write_text('{"a"')
    texts = iter(['{"a":', '{"a": 7}'])
    monkeypatch.setattr(trusted_directory, "time", SimpleNamespace(sleep=lambda _: file.write_text(next(texts))))
    assert directory.load("web/status", _decoder) == Pair(7)
    assert not list(texts)


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """Yield a directory on the tmpfs of /run, with a directory web."""
    with tempfile.TemporaryDirectory(dir="/run", prefix="nsbroker-test-") as path:
        (Path(path) / "web").mkdir()
        yield Path(path)


@pytest.mark.root
def test_quick_reading_gives_up_on_half_written_and_large_files(in_memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trusted_directory, "time", SimpleNamespace())
    with TrustedDirectory(in_memory, 0, "crun", quick=True) as directory:
        (in_memory / "web/status").write_text('{"a": 5}')
        assert directory.load("web/status", _decoder) == Pair(5)
        (in_memory / "web/status").write_text('{"a":')
        with pytest.raises(EngineUnavailable, match="makes no sense"):
            directory.load("web/status", _decoder)
        (in_memory / "web/status").write_text('{"a": 5}' + " " * 128 * 1024)
        with pytest.raises(EngineUnavailable, match="is larger than"):
            directory.load("web/status", _decoder)


@pytest.fixture
def elsewhere(in_memory: Path) -> Iterator[Path]:
    """Yield a directory on another file system, which is mounted below /run, with a directory web."""
    place = in_memory / "elsewhere"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "elsewhere", place], check=True)
    try:
        (place / "web").mkdir()
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.root
def test_quick_reading_touches_no_other_file_system_than_that_of_run(in_memory: Path, elsewhere: Path) -> None:
    (in_memory / "link").symlink_to(elsewhere)
    for path in (elsewhere, elsewhere / "web", in_memory / "link", Path("/"), Path("/proc"), Path("/run/../proc")):
        with pytest.raises(OSError, match=r"Invalid cross-device link|Too many levels"):
            TrustedDirectory(path, 0, "crun", quick=True)
    (elsewhere / "status").write_text('{"a": 5}')
    with TrustedDirectory(in_memory, 0, "crun", quick=True) as directory, pytest.raises(OSError, match="cross-device"):
        directory.load("elsewhere/status", _decoder)


@pytest.mark.root
async def test_a_container_in_memory_is_found_by_its_name_without_a_thread(
    in_memory: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oci_runtime, "in_thread", on_thread := AsyncMock(return_value=[]))
    for folder in (in_memory, elsewhere):
        (folder / "web/status").write_text('{"pid": 12, "process-start-time": 34}')
    (found,) = await crun.engine(in_memory, 0).find("web")
    assert (found.target, found.pid, on_thread.await_count) == ("crun:web", 12, 0)
    # The beginning of an id, and a state directory on a file system that could block, take one.
    for folder, word in ((in_memory, "we"), (elsewhere, "web")):
        assert await crun.engine(folder, 0).find(word) == []
    assert [call.args[1] for call in on_thread.await_args_list] == ["we", "web"]


def test_links_pipes_directories_and_huge_files_are_not_read(place: Path, directory: TrustedDirectory, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text('{"a": 1}')
    (place / "web/link").symlink_to(tmp_path / "elsewhere")
    (place / "web/up").symlink_to("../../elsewhere")
    os.mkfifo(place / "web/pipe")
    (place / "web/directory").mkdir()
    with open(place / "web/huge", "wb") as huge:
        huge.truncate(5 * 1024 * 1024)
    for name in ("web/link", "web/up", "../elsewhere", "/etc/passwd"):
        with pytest.raises(OSError, match=r"symbolic links|cross-device"):
            directory.read(name)
    for name in ("web/pipe", "web/directory"):
        with pytest.raises(EngineUnavailable, match="no plain file"):
            directory.read(name)
    with pytest.raises(EngineUnavailable, match="larger than"):
        directory.read("web/huge")


def test_a_file_or_directory_that_others_may_write_is_not_trusted(place: Path, directory: TrustedDirectory) -> None:
    file = place / "web/status"
    file.write_text('{"a": 1}')
    file.chmod(0o666)
    with pytest.raises(EngineUnavailable, match="can be written by others"):
        directory.read("web/status")
    place.chmod(0o777)
    with pytest.raises(EngineUnavailable, match="can be written by others"):
        TrustedDirectory(place, 0, "crun")


@pytest.mark.root
def test_a_file_or_directory_of_somebody_else_is_not_trusted(place: Path, directory: TrustedDirectory) -> None:
    file = place / "web/status"
    file.write_text('{"a": 1}')
    os.chown(file, 4001, 4001)
    with pytest.raises(EngineUnavailable, match="belongs to uid 4001, not to uid 0"):
        directory.read("web/status")
    os.chown(place, 4001, 4001)
    with pytest.raises(EngineUnavailable, match="belongs to uid 4001"):
        TrustedDirectory(place, 0, "crun")
    TrustedDirectory(place, 4001, "crun").close()


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
    tasks = place / "io.containerd.runtime.v2.task" / namespace
    for name in ("web", "bad"):
        (tasks / name).mkdir(parents=True)
        (tasks / name / "init.pid").write_text("12")
    (tasks / "web/config.json").write_text(annotations)
    (tasks / "bad/config.json").write_text("[]")


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
async def test_a_damaged_container_hides_no_other(make: Callable[[Path], Engine], tmp_path: Path) -> None:
    engine = make(tmp_path)

    def words(found: list[Container]) -> list[str]:
        return [one.word for one in found]

    name = "ns/pod" if engine.name == "cri" else "web"
    assert words(await engine.containers()) == [name]
    assert words(await engine.find(name)) == [name]
    with pytest.raises(EngineUnavailable, match="makes no sense"):
        await engine.find("bad")
