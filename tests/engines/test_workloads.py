"""Rules for what runs in a container.  The engines, the control groups and the processes in them are real.

A process that `docker exec` starts is a process in the container's control groups.  The tests put processes there themselves,
because the image has no Python.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from nsbroker.errors import PermissionDenied
from nsbroker.linux.capabilities import use_only
from nsbroker.linux.features import features
from nsbroker.linux.process import Process
from tests.engines.real import Cri, Crun, Docker, Engine, PodmanWithUserNamespace, remove_group, wait_for_end
from tests.world import ALICE, Daemon, Sleeper, as_user

T = TypeVar("T")

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not features().peer_pidfd, reason="before Linux 6.5 the kernel does not show which process connected"),
]


def groups_of(pid: int) -> dict[Path, str]:
    """Return the control groups of a process: the directory of each hierarchy, and the path below it."""
    with Process.open(pid) as process:
        groups = process.cgroups()
    found = {}
    for hierarchy, path in groups.items():
        top = Path("/sys/fs/cgroup") / (hierarchy.removeprefix("name=") or "unified")
        if hierarchy == "" and not top.exists():
            top = Path("/sys/fs/cgroup")
        if (top / "cgroup.procs").exists():
            found[top] = path
    return found


def move(groups: dict[Path, str], below: str = "") -> None:
    """Move this process into control groups, or into groups of theirs that are created."""
    for top, path in groups.items():
        directory = Path(f"{top}{path}") / below
        directory.mkdir(exist_ok=True)
        if top.name == "cpuset" and below:
            for name in ("cpuset.cpus", "cpuset.mems"):
                (directory / name).write_text((directory.parent / name).read_text())
        (directory / "cgroup.procs").write_text(str(os.getpid()))


def inside(engine: Engine, name: str, uid: int, function: Callable[[], T], below: str = "") -> T:
    """Call `function` in a process in the container's control groups: as a user, or as a root without capabilities."""
    groups = groups_of(engine.pid(name))

    def enter() -> T:
        move(groups, below)
        return as_user(uid, function) if uid else without_capabilities(function)

    return as_user(0, enter)


def without_capabilities(function: Callable[[], T]) -> T:
    """Call `function` as uid 0 without capabilities, as in a container without a user namespace."""
    use_only(0)
    return function()


def names(engine: Engine) -> tuple[str, str]:
    return ("default/web1", "default/web2") if isinstance(engine, Cri) else ("web1", "web2")


@pytest.fixture
def pair(engine: Engine) -> Iterator[tuple[str, str]]:
    if isinstance(engine, PodmanWithUserNamespace):
        pytest.skip("covered by podman: control groups know nothing of user namespaces")
    first, second = names(engine)
    engine.make(first)
    engine.make(second)
    yield first, second
    engine.remove(first)
    engine.remove(second)


@pytest.fixture
def target(daemon: Daemon, sleeper: Sleeper, engine: Engine, pair: tuple[str, str]) -> str:
    """A process that only what runs in the first container may open."""
    target = f"pid:{sleeper.pid}"
    daemon.allow("agents", who=[f"{engine.word}:{pair[0]}"], targets=[target], namespaces=["net"])
    return target


def verdict(daemon: Daemon, target: str) -> tuple[str, str | None]:
    """What this process gets of the target, and in which container the broker sees it."""
    with daemon.connect() as broker:
        container = broker.who_am_i().container
        try:
            broker.open(target, "net").close()
        except PermissionDenied:
            return "denied", container
        return "allowed", container


@pytest.mark.parametrize("uid", [0, ALICE], ids=["uid 0 without capabilities", "a user"])
def test_who_runs_in_the_container_is_who_the_rule_is_for_whatever_the_uid(
    engine: Engine, pair: tuple[str, str], daemon: Daemon, target: str, uid: int
) -> None:
    first, second = pair
    assert inside(engine, first, uid, lambda: verdict(daemon, target)) == ("allowed", f"{engine.word}:{first}")
    assert inside(engine, second, uid, lambda: verdict(daemon, target)) == ("denied", f"{engine.word}:{second}")
    assert as_user(ALICE, lambda: verdict(daemon, target)) == ("denied", None)
    assert verdict(daemon, target) == ("allowed", None), "root has its own rule"


def test_a_record_names_the_container(engine: Engine, pair: tuple[str, str], daemon: Daemon, target: str) -> None:
    inside(engine, pair[0], ALICE, lambda: verdict(daemon, target))
    record = [record for record in daemon.records() if record["method"] == "Open"][-1]
    assert (record["peer_container"], record["rule"]) == (f"{engine.word}:{pair[0]}", "agents")


def test_a_process_in_a_group_below_is_in_the_container(engine: Engine, pair: tuple[str, str], daemon: Daemon, target: str) -> None:
    assert inside(engine, pair[0], ALICE, lambda: verdict(daemon, target), below="nested")[0] == "allowed"


def test_a_group_with_the_same_name_elsewhere_is_not_the_container(
    engine: Engine, pair: tuple[str, str], daemon: Daemon, target: str
) -> None:
    groups = groups_of(engine.pid(pair[0]))
    imitation = {top: f"/imitation{path}" for top, path in groups.items()}

    def imitate() -> tuple[str, str | None]:
        for top, path in imitation.items():
            Path(f"{top}{path}").mkdir(parents=True, exist_ok=True)
            if top.name == "cpuset":
                for directory in (*reversed(Path(f"{top}{path}").relative_to(top).parents), Path(path.lstrip("/"))):
                    for name in ("cpuset.cpus", "cpuset.mems") if directory != Path(".") else ():
                        (top / directory / name).write_text((top / name).read_text())
        move(imitation)
        return as_user(ALICE, lambda: verdict(daemon, target))

    assert as_user(0, imitate) == ("denied", None)
    remove_group("imitation")


def test_who_leaves_the_container_has_no_more_rights_on_the_same_connection(
    engine: Engine, pair: tuple[str, str], daemon: Daemon, target: str
) -> None:
    groups = groups_of(engine.pid(pair[0]))

    def leave() -> list[str]:
        outcome = []
        move(groups)
        # The effective uid decides who the peer is; root's group may be written by root alone.
        os.setresuid(ALICE, ALICE, 0)
        with daemon.connect() as broker:
            os.seteuid(ALICE)
            for place in (None, dict.fromkeys(groups, "/")):
                if place is not None:
                    os.seteuid(0)
                    move(place)
                    os.seteuid(ALICE)
                try:
                    broker.open(target, "net").close()
                    outcome.append("allowed")
                except PermissionDenied:
                    outcome.append("denied")
        return outcome

    assert as_user(0, leave) == ["allowed", "denied"]


def test_when_the_container_ends_what_is_left_in_its_group_has_no_rights(
    engine: Engine, pair: tuple[str, str], daemon: Daemon, target: str
) -> None:
    if not isinstance(engine, Crun | Docker):
        pytest.skip("one engine with state files and one with an API are enough")
    groups, first = groups_of(engine.pid(pair[0])), engine.pid(pair[0])

    def outlive() -> list[str]:
        move(groups)
        os.setresuid(ALICE, ALICE, 0)
        outcome = []
        with daemon.connect() as broker:
            for ends in (False, True):
                if ends:
                    os.seteuid(0)
                    os.kill(first, 9)
                    wait_for_end(first)
                    os.seteuid(ALICE)
                try:
                    broker.open(target, "net").close()
                    outcome.append("allowed")
                except PermissionDenied:
                    outcome.append("denied")
        return outcome

    assert as_user(0, outlive) == ["allowed", "denied"]
