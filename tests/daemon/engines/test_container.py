"""The proof that a process belongs to the container for which an engine names it."""

import os

import pytest
from msgspec import structs

from nsbroker.daemon.engines.container import Container, State
from nsbroker.errors import NoSuchTarget
from nsbroker.linux.process import Process

ID = "ab" * 32
OTHER = "cd" * 32


def container(*groups: str, user: int = 0, pid: int = 0, start_time: int | None = None) -> Container:
    return Container(
        engine="docker", id=ID, names=("web",), state=State.RUNNING, groups=groups, user=user, pid=pid, start_time=start_time
    )


@pytest.mark.parametrize(
    ("path", "fits"),
    [
        (f"/docker/{ID}", True),
        (f"/system.slice/docker-{ID}.scope", True),
        (f"/system.slice/docker-{ID}.scope/init", True),
        (f"/../../docker/{ID}", True),
        (f"/kubepods.slice/pod{OTHER[:36]}.slice/{ID}", True),
        ("/", False),
        (f"/docker/{ID[:-1]}", False),
        (f"/docker/x{ID}", False),
        (f"/docker/{OTHER}", False),
        # A container that may make groups below its own must not pass for another container by their names.
        (f"/docker/{OTHER}/{ID}", False),
        (f"/lxc.payload.evil/docker-{ID}.scope", False),
        (f"/docker/{OTHER}/docker-{ID}.scope", False),
        (f"/user.slice/user-4001.slice/user@4001.service/docker-{ID}.scope", False),
    ],
)
def test_which_control_groups_belong_to_a_container(path: str, fits: bool) -> None:
    assert container(ID, f"docker-{ID}.scope")._is_group(path) is fits


@pytest.mark.parametrize(
    ("path", "fits"),
    [
        ("/lxc.payload.web", True),
        ("/lxc.payload.web/init.scope", True),
        ("/lxc.payload.web-2", False),
        ("/lxc.payload.evil/lxc.payload.web", False),
        (f"/docker/{OTHER}/lxc.payload.web", False),
    ],
)
def test_which_control_groups_belong_to_a_container_with_a_name(path: str, fits: bool) -> None:
    named = structs.replace(container("lxc.payload.web"), engine="lxc", id="web")
    assert named._is_group(path) is fits


def test_a_users_engine_has_its_containers_below_the_users_slice() -> None:
    path = f"/user.slice/user-4001.slice/user@4001.service/user.slice/libpod-{ID}.scope"
    assert container(f"libpod-{ID}.scope", user=4001)._is_group(path)


def test_a_process_is_proved_by_when_it_started() -> None:
    with Process.open(os.getpid()) as process:
        start = process.start_time()
    container(pid=os.getpid(), start_time=start).pin().close()
    with pytest.raises(NoSuchTarget, match="is not the container's"):
        container(pid=os.getpid(), start_time=start + 1).pin()
    with pytest.raises(NoSuchTarget, match="is not the container's"):
        container(pid=os.getpid()).pin()


def test_names_of_a_users_engine_are_no_names_for_rules() -> None:
    assert container().rule_names() == ("docker:web", "container:web"), "an id is random: a pattern could fit it by chance"
    assert container(user=4001).rule_names() == ()
    assert container(user=4001).target == "docker@4001:web"


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("web", True),
        ("deadbeef", True),
        ("team/web", True),
        ("0123456789ab", True),
        (ID, False),
        (f"team/{ID}", False),
        # The name under which RHEL's hook registers a container with machined.
        (ID[:32], False),
        # podman's helpers of a pod, and a container that docker compose renamed to make room for a new one.
        (f"{ID[:12]}-infra", False),
        (f"{ID[:12]}-service", False),
        (f"{ID[:12]}_web", False),
    ],
)
def test_a_name_that_an_engine_made_up_is_no_name_for_rules(name: str, named: bool) -> None:
    one = structs.replace(container(), names=(name,))
    assert one.rule_names() == ((f"docker:{name}", f"container:{name}") if named else ())


def test_a_container_without_a_name_is_called_by_its_id() -> None:
    assert structs.replace(container(), names=()).target == f"docker:{ID}"
