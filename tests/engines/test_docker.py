"""What only docker has: its states, its names, and services of compose."""

import os
import signal
from collections.abc import Iterator

import pytest

from nsbroker.errors import EngineUnavailable, NoSuchTarget
from tests.engines.conftest import started
from tests.engines.real import IMAGE, SLEEP, Docker
from tests.world import ENGINE_DEADLINE, Daemon, eventually, run_command

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def docker() -> Iterator[Docker]:
    for engine in started(Docker):
        assert isinstance(engine, Docker)
        yield engine


def net(pid: int) -> int:
    return os.stat(f"/proc/{pid}/ns/net").st_ino


def test_a_container_is_the_right_one_after_each_of_a_hundred_changes(docker: Docker, daemon: Daemon) -> None:
    docker.make("web")
    docker.make("other")
    name, other = "web", "other"
    with daemon.connect() as broker:
        for turn in range(100):
            match turn % 5:
                case 0:
                    docker.rename(name, "spare")
                    docker.rename(other, name)
                    docker.rename("spare", other)
                case 1:
                    docker.restart(name)
                case 2:
                    docker.remove(name)
                    docker.make(name)
                case 3:
                    docker.rename(name, f"web{turn}")
                    with pytest.raises(NoSuchTarget):
                        broker.open(f"docker:{name}", "net")
                    name = f"web{turn}"
                case 4:
                    docker.rename(name, "web")
                    name = "web"
            with broker.open(f"docker:{name}", "net") as ns:
                assert ns.inode == net(docker.pid(name)), turn
    docker.remove(name)
    docker.remove(other)


def test_a_paused_container_opens_and_other_states_are_named_in_the_error(docker: Docker, daemon: Daemon) -> None:
    docker.make("web")
    docker.pause("web")
    try:
        with daemon.connect() as broker:
            with broker.open("docker:web", "net") as ns:
                assert ns.inode == net(docker.pid("web"))
            assert [one.state for one in broker.containers().containers if "web" in one.names] == ["paused"]
    finally:
        docker.unpause("web")
        docker.remove("web")
    docker.docker("create", "--name", "new", IMAGE, *SLEEP)
    docker.docker("run", "--network", "none", "--name", "done", IMAGE, "/bin/busybox", "true")
    docker.docker("run", "-d", "--network", "none", "--restart", "always", "--name", "again", IMAGE, "/bin/busybox", "true")
    try:
        with daemon.connect() as broker:

            def error_for(name: str) -> str:
                try:
                    broker.open(f"docker:{name}", "net").close()
                except (NoSuchTarget, EngineUnavailable) as error:
                    return str(error)
                return ""

            for name, text in {"new": "not started yet", "done": "has ended", "none": "no container has"}.items():
                assert text in error_for(name)
            # It runs for a moment again and again, and waits longer and longer in between.
            eventually(lambda: "try again" in error_for("again"), "it restarts")
            assert not {"new", "done"} & {name for one in broker.containers().containers for name in one.names}
    finally:
        docker.docker("rm", "-f", "new", "done", "again")


def test_a_service_of_compose_opens_by_project_and_service(docker: Docker, daemon: Daemon) -> None:
    # The labels are those of compose, whose own program is not among Debian 12's packages.
    labels = ["--label", "com.docker.compose.project=shop", "--label", "com.docker.compose.service=web"]
    docker.docker("run", "-d", "--network", "none", "--name", "shop-web-1", *labels, IMAGE, *SLEEP)
    try:
        with daemon.connect() as broker:
            for target in ("docker:shop-web-1", "docker:shop/web", "container:shop/web"):
                with broker.open(target, "net") as ns:
                    assert ns.inode == net(docker.pid("shop-web-1"))
            (listed,) = broker.containers().containers
            assert (listed.names, listed.labels["com.docker.compose.service"]) == (["shop-web-1"], "web")
    finally:
        docker.docker("rm", "-f", "shop-web-1")


def test_containers_prints_a_table_for_people_and_json_for_programs(docker: Docker, daemon: Daemon) -> None:
    docker.make("web")
    table = run_command("containers", address=daemon.address)
    assert table.returncode == 0, table.stderr
    pid = docker.pid("web")
    assert table.stdout.splitlines()[0].split() == ["ENGINE", "NAME", "ID", "STATE", "PID", "NETWORK"]
    assert table.stdout.splitlines()[1].split() == [
        "docker",
        "web",
        docker.id("web")[:12],
        "running",
        str(pid),
        f"net:[{net(pid)}]",
    ]
    assert f'"networkNamespace": {net(pid)}' in run_command("containers", "--json", address=daemon.address).stdout
    docker.remove("web")


def test_an_engine_that_does_not_answer_is_named_in_the_error(docker: Docker, daemon: Daemon) -> None:
    assert docker.service is not None
    docker.make("web")
    os.kill(docker.service.pid, signal.SIGSTOP)
    try:
        with daemon.connect() as broker:
            with pytest.raises(EngineUnavailable, match=f"docker is unavailable: .*: no answer in {ENGINE_DEADLINE:g} s"):
                broker.open("docker:web", "net")
            # A query to all engines waits for it once, and then leaves it out.
            with pytest.raises(EngineUnavailable, match="a moment ago"):
                broker.open("container:web", "net")
            assert [one.engine for one in broker.containers().unavailable] == ["docker"]
    finally:
        os.kill(docker.service.pid, signal.SIGCONT)
    with daemon.connect() as broker:
        broker.open("docker:web", "net").close()
        broker.open("container:web", "net").close()
    docker.remove("web")
