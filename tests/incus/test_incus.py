"""What holds for containers of incus as for those of every engine, and what only incus has."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbroker.errors import AmbiguousTarget, EngineUnavailable, NoSuchTarget
from nsbroker.model.identity import NamespaceType
from tests.engines.real import Engine, Incus, run
from tests.engines.test_every_engine import (
    inodes,
    opened,
    test_a_container_opens_by_name_by_id_and_by_the_beginning_of_its_id,
    test_a_killed_container_is_neither_opened_nor_listed,
    test_a_target_that_fits_two_containers_is_refused_and_both_are_listed,
    test_others_know_of_a_container_only_when_a_rule_names_it,
    web1,
)
from tests.world import Daemon, eventually, run_command

__all__ = [
    "test_a_container_opens_by_name_by_id_and_by_the_beginning_of_its_id",
    "test_a_killed_container_is_neither_opened_nor_listed",
    "test_a_target_that_fits_two_containers_is_refused_and_both_are_listed",
    "test_others_know_of_a_container_only_when_a_rule_names_it",
    "web1",
]

pytestmark = pytest.mark.root
# A program by which a container reports to incus that it is ready.  incus finds the container by the program's PID namespace.
SAY_READY = """
import socket, sys
with socket.socket(socket.AF_UNIX) as guest:
    guest.connect(f"/proc/{sys.argv[1]}/root/dev/incus/sock")
    body = b'{"state": "Ready"}'
    guest.sendall(b"PATCH /1.0 HTTP/1.0\\r\\nHost: incus\\r\\nContent-Length: %d\\r\\n\\r\\n%b" % (len(body), body))
    sys.exit(b" 200 " not in guest.recv(4096))
"""


@pytest.fixture
def incus(engine: Engine) -> Incus:
    assert isinstance(engine, Incus)
    return engine


@pytest.fixture
def shop(incus: Incus) -> Iterator[str]:
    """A project that shares the images and profiles of the default one."""
    incus.incus("project", "create", "shop", "-c", "features.images=false", "-c", "features.profiles=false")
    yield "shop"
    incus.incus("project", "delete", "shop")


def states(daemon: Daemon) -> dict[str, str]:
    with daemon.connect() as broker:
        return {one.names[0]: one.state for one in broker.containers().containers}


def refusal(daemon: Daemon, target: str) -> str:
    with daemon.connect() as broker, pytest.raises(NoSuchTarget) as refused:
        broker.open(target, "net")
    return str(refused.value)


@contextlib.contextmanager
def hidden(path: Path) -> Iterator[None]:
    away = path.rename(path.with_name("away"))
    try:
        yield
    finally:
        away.rename(path)


@pytest.mark.parametrize("privileged", [False, True], ids=["in a user namespace", "privileged"])
def test_the_command_shows_the_same_as_the_links_in_proc(incus: Incus, web1: str, daemon: Daemon, privileged: bool) -> None:
    if privileged:
        incus.incus("config", "set", web1, "security.privileged=true")
        incus.restart(web1)
    pid = incus.pid(web1)
    links = {str(ns_type): os.readlink(f"/proc/{pid}/ns/{ns_type}") for ns_type in NamespaceType}
    assert (links["user"] == os.readlink("/proc/self/ns/user")) is privileged
    shown = run_command("show", f"incus:{web1}", "--json", address=daemon.address)
    assert {row["type"]: f"{row['type']}:[{row['inode']}]" for row in json.loads(shown.stdout)} == links, shown.stderr
    listed = run_command("containers", address=daemon.address).stdout.splitlines()
    assert [line.split() for line in listed[1:]] == [["incus", web1, web1, "running", str(pid), links["net"]]]


def test_a_name_alone_is_of_the_default_project(incus: Incus, shop: str, web1: str, daemon: Daemon) -> None:
    made = [f"{shop}/{web1}", f"{shop}/{web1}0", f"{web1}0"]
    for name in made:
        incus.make(name)
    try:
        default, other = inodes(incus.pid(web1)), inodes(incus.pid(f"{shop}/{web1}"))
        for target in ("incus:web1", "container:web1", "incus:default/web1"):
            assert opened(daemon, target) == default, target
        for target in ("incus:shop/web1", "container:shop/web1"):
            assert opened(daemon, target) == other != default, target
        assert opened(daemon, "incus:shop/web10") == inodes(incus.pid("shop/web10"))
        with daemon.connect() as broker:
            for target, candidates in (
                ("incus:web", ["incus:web1", "incus:web10"]),
                ("incus:shop/w", ["incus:shop/web1", "incus:shop/web10"]),
            ):
                with pytest.raises(AmbiguousTarget) as ambiguous:
                    broker.open(target, "net")
                assert ambiguous.value.candidates == candidates
        for target in ("incus:shop", "incus:shop/s", "incus:shop/shop", "incus:missing/web1", "incus:a/shop/web1"):
            assert "no container has that name" in refusal(daemon, target)
        assert set(states(daemon)) == {web1, *made}
    finally:
        for name in made:
            incus.remove(name)


def test_a_container_is_the_right_one_after_stop_rename_start_and_restart(incus: Incus, web1: str, daemon: Daemon) -> None:
    incus.make("web2")
    incus.on("web2", "stop", "--force")
    assert "the container has ended: start it first" in refusal(daemon, "incus:web2")
    assert states(daemon) == {"web1": "running"}
    assert opened(daemon, "incus:web1") == inodes(incus.pid("web1"))
    incus.on("web2", "start")
    name = "web2"
    for turn in range(3):
        incus.rename(name, f"api{turn}")
        assert "no container has that name" in refusal(daemon, f"incus:{name}")
        name = f"api{turn}"
        assert opened(daemon, f"incus:{name}") == inodes(incus.pid(name))
        incus.restart(name)
        assert opened(daemon, f"incus:{name}") == inodes(incus.pid(name))
    incus.remove(name)
    assert "no container has that name" in refusal(daemon, f"incus:{name}")


def test_a_paused_container_and_one_that_reports_to_be_ready(incus: Incus, web1: str, daemon: Daemon) -> None:
    pid = incus.pid(web1)
    incus.pause(web1)
    assert states(daemon) == {web1: "paused"}
    assert opened(daemon, f"incus:{web1}") == inodes(pid)
    incus.unpause(web1)
    run("nsenter", "--user", "--pid", "--target", str(pid), sys.executable, "-c", SAY_READY, str(pid))
    assert "READY" in incus.on(web1, "info")
    assert states(daemon) == {web1: "running"}


def test_a_container_whose_control_group_got_another_name(incus: Incus, daemon: Daemon) -> None:
    left = Path("/sys/fs/cgroup/lxc.payload.web3/left")
    left.mkdir(parents=True)
    with subprocess.Popen(["sleep", "1000"]) as sleep:
        (left / "cgroup.procs").write_text(str(sleep.pid))
        try:
            incus.make("web3")
            pid = incus.pid("web3")
            assert "/lxc.payload.web3-1\n" in Path(f"/proc/{pid}/cgroup").read_text()
            assert opened(daemon, "incus:web3") == inodes(pid)
            incus.remove("web3")
        finally:
            sleep.kill()
    eventually(lambda: not (left / "cgroup.procs").read_text(), "the group is empty")
    left.rmdir()
    left.parent.rmdir()


def test_the_daemon_of_incus_may_stop_and_come_back(incus: Incus, web1: str, daemon: Daemon) -> None:
    expected = inodes(incus.pid(web1))
    run("systemctl", "stop", "incus.service")
    # systemd still listens on its socket, and starts it again.
    assert opened(daemon, f"incus:{web1}") == expected == inodes(incus.pid(web1))
    with hidden(Path("/var/lib/incus/unix.socket")), daemon.connect() as broker:
        with pytest.raises(EngineUnavailable, match=r"no /var/lib/incus/unix\.socket"):
            broker.open(f"incus:{web1}", "net")
        assert states(daemon) == {}
    assert states(daemon) == {web1: "running"}
