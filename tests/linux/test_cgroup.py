"""How control groups of both versions are read, which of them systemd chose, and whether a freezer has stopped a process."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from nsbroker.linux import cgroup

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        (b"", {}),
        (b"0::/\n", {"": "/"}),
        (b"9:cpu,cpuacct:/web\n1:name=systemd:/a\n0::/b\n", {"cpu,cpuacct": "/web", "name=systemd": "/a", "": "/b"}),
        (b"0::/a:b::c\n", {"": "/a:b::c"}),
        (b"0::/a\r1:cpu:/x\x0b2:cpu:/y\xe2\x80\xa83:cpu:/z\n", {"": "/a\r1:cpu:/x\x0b2:cpu:/y\u20283:cpu:/z"}),
        (b"0::/\xff.service\n", {"": "/\udcff.service"}),
        (b"0::/first\n0::/second\n", {"": "/first"}),
    ],
)
def test_groups_are_read_by_hierarchy_and_no_name_forges_a_line(text: bytes, groups: Mapping[str, str]) -> None:
    assert cgroup.parse(text) == groups


def test_the_groups_of_this_process_are_those_in_proc() -> None:
    lines = Path("/proc/self/cgroup").read_text().split("\n")[:-1]
    assert cgroup.parse(Path("/proc/self/cgroup").read_bytes()) == {line.split(":")[1]: line.split(":", 2)[2] for line in lines}


@pytest.mark.parametrize(
    ("groups", "path"),
    [
        ({"": "/system.slice/a.service"}, "/system.slice/a.service"),
        ({"name=systemd": "/system.slice/a.service", "": "/"}, "/system.slice/a.service"),
        ({"name=systemd": "/", "": "/system.slice/a.service"}, "/system.slice/a.service"),
        ({"name=systemd": "/one", "": "/two"}, "/one"),
        ({"cpu,cpuacct": "/other"}, "/"),
        ({}, "/"),
    ],
)
def test_the_group_of_systemd_is_in_its_own_hierarchy_or_else_in_cgroup2(groups: Mapping[str, str], path: str) -> None:
    assert cgroup.systemd_path(groups) == path


@pytest.mark.parametrize(
    ("groups", "file", "frozen", "thawed"),
    [
        ({"": "/a/b"}, "a/b/cgroup.events", "populated 1\nfrozen 1\n", "populated 1\nfrozen 0\n"),
        ({"cpu": "/x", "": "/a/b"}, "unified/a/b/cgroup.events", "populated 1\nfrozen 1\n", "populated 1\nfrozen 0\n"),
        ({"cpu,freezer": "/a", "": "/b"}, "freezer/a/freezer.state", "FROZEN\n", "THAWED\n"),
    ],
)
def test_a_frozen_group_is_recognized_in_each_hierarchy(
    groups: Mapping[str, str], file: str, frozen: str, thawed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup, "_ROOT", tmp_path)
    assert not cgroup.is_frozen(groups), "there is no file"
    place = tmp_path / file
    place.parent.mkdir(parents=True)
    for text, expected in ((frozen, True), (thawed, False)):
        place.write_text(text)
        assert cgroup.is_frozen(groups) is expected
