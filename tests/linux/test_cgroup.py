"""Which control group systemd put a process into, and whether a freezer has stopped it: for both versions of control groups."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from nsbroker.linux import cgroup

pytestmark = pytest.mark.once


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
