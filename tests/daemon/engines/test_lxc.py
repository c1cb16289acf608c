"""Containers of lxc, found in its directory."""

from pathlib import Path

from nsbroker.daemon.engines import lxc


async def test_a_link_in_the_directory_of_lxc_hides_no_container(tmp_path: Path) -> None:
    for name in ("web", "bad"):
        (tmp_path / name).mkdir()
    (tmp_path / "web/config").touch()
    (tmp_path / "bad/config").symlink_to("/etc/passwd")
    (tmp_path / "link").symlink_to("/etc")
    assert [one.word for one in await lxc.Lxc(tmp_path, 0).find("w")] == ["web"]
