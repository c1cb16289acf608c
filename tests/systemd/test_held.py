"""Held namespaces in systemd's fd store survive restarts, crashes and a new installation."""

import os
import signal
import subprocess
import time

import pytest

from nsbroker.client.blocking import connect
from nsbroker.errors import NoSuchTarget
from tests.engines.real import wait_for_end
from tests.systemd.unit import ADDRESS, Unit

pytestmark = pytest.mark.root


def interfaces() -> tuple[int, str]:
    """Return the inode of the held network, and the interfaces that a process inside it sees."""
    with connect(ADDRESS) as broker, broker.open("name:lab", "net") as ns:
        seen = subprocess.run(
            ["nsenter", f"--net=/proc/self/fd/{ns.fileno()}", "ip", "-brief", "link"],
            pass_fds=[ns.fileno()],
            capture_output=True,
            text=True,
            check=True,
        )
        return ns.inode, seen.stdout


def test_a_held_network_with_an_interface_survives_restart_kill_and_a_new_installation(unit: Unit) -> None:
    with connect(ADDRESS) as broker:
        made = broker.create(["net", "uts"], name="lab")
        assert made.durable
        net = made.namespaces[next(ns_type for ns_type in made.namespaces if ns_type == "net")]
        command = ["nsenter", f"--net=/proc/self/fd/{net.fileno()}", "ip", "link", "add", "kept0", "type", "veth", "peer", "kept1"]
        subprocess.run(command, pass_fds=[net.fileno()], check=True)
        for ns in made.namespaces.values():
            ns.close()
    before = interfaces()
    assert "kept0" in before[1]

    unit.run("systemctl", "restart", "nsbroker.service")
    assert interfaces() == before
    for _ in range(3):
        first = unit.pid
        os.kill(first, signal.SIGKILL)
        wait_for_end(first)
        assert interfaces() == before
    unit.run(unit.program, "install-units")
    unit.run("systemctl", "try-restart", "nsbroker.service")
    assert interfaces() == before
    assert "held namespaces: 2" in unit.prop("StatusText")
    assert unit.prop("NFileDescriptorStore") == "2"

    with connect(ADDRESS) as broker:
        broker.release("lab")
    unit.run("systemctl", "restart", "nsbroker.service")
    with connect(ADDRESS) as broker, pytest.raises(NoSuchTarget):
        broker.open("name:lab", "net")
    assert unit.prop("NFileDescriptorStore") == "0"


def test_what_is_held_under_two_names_stays_held_under_one_when_the_other_is_released(unit: Unit) -> None:
    with connect(ADDRESS) as broker:
        for ns in broker.create(["net"], name="other").namespaces.values():
            inode = ns.inode
            ns.close()
        assert broker.hold("name:other", "lab")
        assert unit.prop("NFileDescriptorStore") == "2"
        broker.release("other")
    unit.run("systemctl", "restart", "nsbroker.service")
    # The second name can be held again under a third one: what the fd store gave back is the same open file as its own.
    with connect(ADDRESS) as broker:
        assert broker.hold("name:lab", "third")
        broker.release("lab")
    unit.run("systemctl", "restart", "nsbroker.service")
    with connect(ADDRESS) as broker, broker.open("name:third", "net") as ns:
        assert ns.inode == inode
        broker.release("third")


def test_the_broker_does_not_exit_while_it_holds_namespaces(unit: Unit) -> None:
    unit.serve("--idle-timeout", "0.3")
    with connect(ADDRESS) as broker:
        for ns in broker.create(["net"], name="lab").namespaces.values():
            ns.close()
    time.sleep(1)
    assert unit.prop("ActiveState") == "active"
    with connect(ADDRESS) as broker:
        broker.release("lab")
    unit.wait_for("inactive")
