"""Containers of podman, read from the files of its storage."""

from pathlib import Path

from nsbroker.daemon.engines import podman


def test_podman_finds_names_in_every_file_of_every_storage_driver(tmp_path: Path) -> None:
    for driver, file, name in (("overlay", "containers.json", "web"), ("vfs", "volatile-containers.json", "once")):
        (tmp_path / f"{driver}-containers").mkdir()
        (tmp_path / f"{driver}-containers" / file).write_text(f'[{{"id": "{name[0] * 64}", "names": ["{name}"], "layer": "x"}}]')
    engine = podman.Storage(tmp_path, 0)
    assert [one.names for one in engine._find("")] == [("web",), ("once",)]
    assert [one.target for one in engine._find("www")] == ["podman:web"]
    assert engine._find("nothing") == []
