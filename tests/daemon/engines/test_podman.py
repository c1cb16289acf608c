"""Containers of podman, read from the files of its storage."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from nsbroker.daemon.engines import docker, podman
from nsbroker.daemon.engines.container import EngineWithIds
from nsbroker.daemon.engines.trusted_directory import TrustedDirectory
from tests.daemon.engines.test_registry import ID, OTHER_ID, inspected, says, server

THIRD_ID = "ef" * 32


@pytest.fixture
def storage(tmp_path: Path) -> podman.Storage:
    """A storage with three containers, for which no runtime has a state file."""
    entries = [{"id": identifier, "names": [identifier[:4]]} for identifier in (ID, OTHER_ID, THIRD_ID)]
    (tmp_path / "overlay-containers").mkdir()
    (tmp_path / "overlay-containers/containers.json").write_bytes(msgspec.json.encode(entries))
    return podman.Storage(tmp_path, 0)


def test_podman_finds_names_in_every_file_of_every_storage_driver(tmp_path: Path) -> None:
    for driver, file, name in (("overlay", "containers.json", "web"), ("vfs", "volatile-containers.json", "once")):
        (tmp_path / f"{driver}-containers").mkdir()
        (tmp_path / f"{driver}-containers" / file).write_text(f'[{{"id": "{name[0] * 64}", "names": ["{name}"], "layer": "x"}}]')
    engine = podman.Storage(tmp_path, 0)
    assert [one.names for one in engine._find("")] == [("web",), ("once",)]
    assert [one.target for one in engine._find("www")] == ["podman:web"]
    assert engine._find("nothing") == []


async def test_several_ids_cost_one_reading_of_the_storage(storage: podman.Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever connects from below several groups with ids decides how many ids are looked for."""
    readings = 0
    load = podman.Storage._load

    def count(directory: TrustedDirectory) -> Iterator[object]:
        nonlocal readings
        readings += 1
        return load(directory)

    monkeypatch.setattr(podman.Storage, "_load", staticmethod(count))
    assert isinstance(storage, EngineWithIds)
    found = await storage.find_by_ids([OTHER_ID, THIRD_ID, "0" * 64, OTHER_ID[:8]])
    assert [one.id for one in found] == [OTHER_ID, THIRD_ID]
    assert readings == 1


async def test_the_api_tells_the_process_of_a_container_of_another_runtime(storage: podman.Storage, path: Path) -> None:
    storage._api = docker.Api("podman", path, 0, ("libpod-{id}",))
    found = await storage.find_by_ids([ID])
    assert [one.pid for one in found] == [0], "nobody serves the API"
    with server(path, says(inspected(77))):
        found = await storage.find_by_ids([ID])
    assert [(one.target, one.pid, one.groups) for one in found if one.pid] == [("podman:web", 77, (f"libpod-{ID}",))]


async def test_the_api_is_not_asked_about_what_is_not_in_the_storage(storage: podman.Storage, path: Path) -> None:
    storage._api = docker.Api("podman", path, 0, ("libpod-{id}",))
    with server(path, says(b"", b"500 Oops")):
        assert await storage.find_by_ids(["0" * 64]) == []
