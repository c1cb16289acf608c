"""A hundred containers of one runtime; its states and changes."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbroker.errors import NoSuchTarget
from tests.engines.conftest import started
from tests.engines.real import Crun, end_process
from tests.world import Daemon, run_command

pytestmark = pytest.mark.root
MANY = 100


@pytest.fixture(scope="module")
def crun() -> Iterator[Crun]:
    for engine in started(Crun):
        assert isinstance(engine, Crun)
        yield engine


def net(pid: int) -> int:
    return os.stat(f"/proc/{pid}/ns/net").st_ino


def test_a_hundred_containers_are_listed_and_each_opens_by_its_name(crun: Crun, daemon: Daemon) -> None:
    before = daemon.snapshot()
    expected: dict[str, int] = {}
    for number in range(MANY):
        crun.make(f"c{number:03}")
        expected[f"c{number:03}"] = net(crun.pid(f"c{number:03}"))
    with daemon.connect() as broker:
        listed = {one.names[0]: one.network_namespace for one in broker.containers().containers}
        assert listed == expected
        for name, inode in expected.items():
            with broker.open(f"container:{name}", "net") as space:
                assert space.inode == inode
    assert len(run_command("ps", address=daemon.address).stdout.splitlines()) == MANY + 1
    for name in expected:
        crun.remove(name)
    with daemon.connect() as broker:
        assert broker.containers().containers == []
    daemon.settles_at(before)


def test_replaced_by_another_of_the_same_name_a_hundred_times(crun: Crun, daemon: Daemon) -> None:
    with daemon.connect() as broker:
        for _ in range(100):
            crun.make("web")
            with broker.open("crun:web", "net") as space:
                assert space.inode == net(crun.pid("web"))
            crun.remove("web")
            with pytest.raises(NoSuchTarget):
                broker.open("crun:web", "net")


def test_paused_opens_and_is_listed_as_paused(crun: Crun, daemon: Daemon) -> None:
    crun.make("web")
    crun.pause("web")
    with daemon.connect() as broker:
        broker.open("crun:web", "net").close()
        assert [one.state for one in broker.containers().containers] == ["paused"]
    crun.unpause("web")
    with daemon.connect() as broker:
        assert [one.state for one in broker.containers().containers] == ["running"]
    crun.remove("web")


def test_a_number_that_another_process_has_by_now_is_not_believed(crun: Crun, daemon: Daemon) -> None:
    crun.make("old")
    crun.make("victim")
    old, victim = Path("/run/crun/old/status"), crun.pid("victim")
    # What a stale state file looks like once its number was given out again.
    text = old.read_text().replace(f'"pid": {crun.pid("old")}', f'"pid": {victim}')
    end_process(crun.pid("old"))
    shutil.copy(old, "/run/engines/status")
    old.write_text(text)
    with daemon.connect() as broker:
        with pytest.raises(NoSuchTarget, match=f"process {victim}, which the engine names, is not the container's"):
            broker.open("crun:old", "net")
        assert [one.names for one in broker.containers().containers] == [["victim"]]
    shutil.copy("/run/engines/status", old)
    crun.remove("old")
    crun.remove("victim")
