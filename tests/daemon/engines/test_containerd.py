"""Containers of containerd, read from its state directory."""

from pathlib import Path

import pytest

from nsbroker.daemon.engines import containerd, crun


def test_a_task_of_containerd_is_read_again_when_its_file_was_replaced(tmp_path: Path) -> None:
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
    assert list(engine._tasks._cache) == ["team/web"]


@pytest.mark.parametrize(
    ("path", "groups", "own"),
    [("/jobs/", ("jobs",), {"": "/jobs"}), ("jobs", ("jobs",), {"": "/jobs"}), ("/", (), {}), ("", (), {})],
)
def test_the_own_group_is_never_the_root_group_however_the_path_is_written(
    tmp_path: Path, path: str, groups: tuple[str, ...], own: dict[str, str]
) -> None:
    task = tmp_path / "io.containerd.runtime.v2.task/default/web"
    task.mkdir(parents=True)
    (task / "config.json").write_text(f'{{"linux": {{"cgroupsPath": "{path}"}}}}')
    (one,) = containerd.Containerd(tmp_path)._find("")
    assert one.groups == groups
    assert one.own_groups({"": "/jobs/init.scope"}) == own


def test_ids_that_nerdctl_or_another_engine_made_up_are_no_names(tmp_path: Path) -> None:
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
