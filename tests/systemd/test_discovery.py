"""List and Watch in the hardened service."""

import os
import socket
from pathlib import Path

from nsbroker.client.blocking import Broker, connect
from nsbroker.model.description import NamespaceDescription, ReferenceKind
from nsbroker.namespace import Namespace
from tests.systemd.test_units_and_machines import wait_for_program
from tests.systemd.unit import Unit
from tests.world import ALICE, Sleeper, as_user, named_network


def find(broker: Broker, ns_type: str, inode: int) -> NamespaceDescription:
    return next(ns for ns in broker.list([ns_type]) if ns.inode == inode)


def test_namespaces_are_found_by_processes_sockets_descriptors_and_mounts(unit: Unit) -> None:
    with (
        Sleeper() as process,
        Namespace.create("net") as held,
        Namespace.create("net") as left,
        named_network("lab"),
        connect() as broker,
    ):
        sock = left.call(socket.socket, socket.AF_UNIX)
        inode = left.inode
        left.close()
        with sock:
            assert find(broker, "net", process.inode("net")).processes == 1
            for number, kind in (
                (held.inode, ReferenceKind.DESCRIPTOR),
                (inode, ReferenceKind.SOCKET),
                (Path("/run/netns/lab").stat().st_ino, ReferenceKind.MOUNT),
            ):
                assert kind in {reference.kind for reference in find(broker, "net", number).references or ()}, kind
            with broker.open(f"net:[{inode}]", "net") as ns:
                assert ns.inode == inode


def test_units_are_named_and_a_rule_for_one_shows_it(unit: Unit) -> None:
    unit.run("systemd-run", "--unit=lonely", "-p", "PrivateNetwork=yes", "sleep", "1000")
    try:
        wait_for_program("lonely.service", "sleep")
        pid = int(unit.run("systemctl", "show", "--property", "MainPID", "--value", "lonely.service"))
        inode = os.stat(f"/proc/{pid}/ns/net").st_ino
        unit.configure(f'[[allow]]\nname = "x"\nwho = ["user:{ALICE}"]\ntargets = ["unit:lone*"]\nnamespaces = ["net"]\n')
        unit.run("systemctl", "try-restart", "nsbroker.service")
        with connect() as broker:
            assert find(broker, "net", inode).units == ["lonely.service"]

        def look() -> list[tuple[int, int]]:
            with connect() as broker:
                return [(one.inode, one.processes) for one in broker.list(["net"]) if one.units == ["lonely.service"]]

        assert as_user(ALICE, look) == [(inode, 1)]
    finally:
        unit.run("systemctl", "stop", "lonely.service")


def test_namespaces_that_begin_and_end_are_reported(unit: Unit) -> None:
    with connect() as broker, broker.watch(["uts"]) as events:
        for event in events:
            if event.event == "ready":
                break
        with Sleeper() as process:
            inode = process.inode("uts")
            while (event := next(events)).namespace is None or (event.event, event.namespace.inode) != ("added", inode):
                pass
        while (event := next(events)).namespace is None or (event.event, event.namespace.inode) != ("gone", inode):
            pass
