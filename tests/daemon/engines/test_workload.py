"""In which container a process is, as far as paths of control groups decide it."""

import os

import pytest
import trio

from nsbroker.daemon.engines import workload
from nsbroker.daemon.engines.container import Container, State
from nsbroker.errors import EngineUnavailable, NoSuchTarget, QuotaExceeded
from nsbroker.linux import process_table
from nsbroker.linux.process import Process
from tests.world import Sleeper


def container(name: str, group: str, engine: str = "docker", pid: int = 0, user: int = 0) -> Container:
    return Container(engine=engine, id="c" * 64, names=(name,), state=State.RUNNING, pid=pid, groups=(group,), user=user)


OWN = {"": "/system.slice/docker-web.scope"}


@pytest.mark.parametrize(
    ("groups", "own", "inside"),
    [
        ({"": "/system.slice/docker-web.scope"}, OWN, True),
        ({"": "/system.slice/docker-web.scope/below/it"}, OWN, True),
        ({"": "/system.slice/docker-web.scope2"}, OWN, False),
        ({"": "/system.slice"}, OWN, False),
        ({"": "/user.slice/user-7.slice/system.slice/docker-web.scope"}, OWN, False),
        ({}, OWN, False),
        ({"": "/a"}, {}, False),
        ({"cpu": "/docker/x", "pids": "/docker/x"}, {"cpu": "/docker/x", "pids": "/docker/x"}, True),
        ({"cpu": "/docker/x", "pids": "/"}, {"cpu": "/docker/x", "pids": "/docker/x"}, False),
    ],
)
def test_a_process_is_inside_when_it_is_in_or_below_the_groups_of_the_container_everywhere(
    groups: dict[str, str], own: dict[str, str], inside: bool
) -> None:
    assert workload.is_inside(groups, own) is inside


@pytest.mark.parametrize(
    ("path", "own"),
    [
        ("/docker/web", {"": "/docker/web"}),
        ("/docker/web/init.scope", {"": "/docker/web"}),
        ("/docker/other", {}),
        ("/user.slice/web", {}),
        ("/", {}),
    ],
)
def test_the_containers_own_group_is_the_one_with_its_name(path: str, own: dict[str, str]) -> None:
    assert container("web", "web").own_groups({"": path}) == own


@pytest.mark.parametrize("path", ["/", "/jobs", "/system.slice/ssh.service"])
def test_an_engine_that_names_no_group_does_not_have_the_root_group_which_all_processes_are_in(path: str) -> None:
    assert container("web", "").own_groups({"": path}) == {}
    assert not container("web", "")._is_group(path)


class Pinned:
    """A pinned first process in made-up groups: no test may create groups of these names on every machine."""

    def __init__(self, pid: int, path: str) -> None:
        self.pid = pid
        self._groups = {"": path}
        self.closed = False

    def cgroups(self) -> dict[str, str]:
        return self._groups

    def has_ended(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True


def choose(groups: dict[str, str], *pinned: tuple[Container, Pinned]) -> workload.Workload | None:
    return workload.choose(list(pinned), groups)  # type: ignore[arg-type]  # made-up processes


def test_a_container_that_several_engines_know_has_all_its_names() -> None:
    one, other = Pinned(7, "/docker/web"), Pinned(7, "/docker/web")
    found = choose({"": "/docker/web"}, (container("web", "web"), one), (container("w", "web", "containerd"), other))
    assert found is not None
    assert found.names == ("docker:web", "container:web", "containerd:w", "container:w")
    assert (one.closed, other.closed) == (False, True)
    found.close()
    assert one.closed


def test_the_innermost_container_counts() -> None:
    outer, inner = Pinned(7, "/a/outer"), Pinned(8, "/a/outer/b/inner")
    found = choose({"": "/a/outer/b/inner"}, (container("outer", "outer"), outer), (container("inner", "inner"), inner))
    assert found is not None
    assert found.target == "docker:inner"
    assert outer.closed
    found.close()


def test_two_containers_in_one_group_are_none_and_everything_is_closed() -> None:
    one, other = Pinned(7, "/docker/web"), Pinned(8, "/docker/web")
    assert choose({"": "/docker/web"}, (container("a", "web"), one), (container("b", "web", "podman"), other)) is None
    assert one.closed
    assert other.closed


async def test_a_users_own_container_and_one_without_a_process_are_no_candidates() -> None:
    groups = {"": "/docker/web"}
    assert await workload.candidates([container("web", "web"), container("web", "web", pid=os.getpid(), user=7)], groups) == []


def test_a_container_contains_a_process_only_as_long_as_its_first_one_lives() -> None:
    with Sleeper() as sleeper, Process.open(os.getpid()) as me:
        groups = me.cgroups()
        own = {hierarchy: path for hierarchy, path in groups.items() if path != "/"} or {next(iter(groups)): "/"}
        found = workload.Workload(["docker:web"], "docker:web", Process.open(sleeper.pid), own)
        try:
            assert found.contains(me)
            sleeper.end()
            assert not found.contains(me)
        finally:
            found.close()


async def test_among_many_containers_other_tasks_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_table, "control_groups", lambda _: b"0::/docker/web\n")
    passes = 0

    async def count() -> None:
        nonlocal passes
        while True:
            await trio.lowlevel.checkpoint()
            passes += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        many = [container("web", "web", pid=1)] * 1000
        assert len(await workload.candidates(many, {"": "/docker/web"})) == 1000
        nursery.cancel_scope.cancel()
    assert passes >= 20


async def test_a_container_that_cannot_be_pinned_is_a_failure_unless_it_has_ended() -> None:
    async def pin(one: Container) -> Process:
        match one.names[0]:
            case "ended":
                raise NoSuchTarget(one.target, "the process has ended")
            case "busy":
                raise QuotaExceeded("threads-per-user")
            case "blocked":
                raise EngineUnavailable(one.engine, "its first process blocked the reading of its /proc entry")
        return Process.open(os.getpid())

    found = [container(name, name) for name in ("web", "ended", "busy", "blocked")]
    pinned, failures = await workload.pin_all(found, pin)
    assert [one.names for one, _ in pinned] == [("web",)]
    assert [(failure.engine, failure.reason.partition(" ")[0]) for failure in failures] == [
        ("docker", "docker:busy"),
        ("docker", "docker:blocked"),
    ]
    for _, process in pinned:
        process.close()
