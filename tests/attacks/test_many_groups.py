"""A user with a great many processes, each with as many supplementary groups as the kernel allows, and each with others.

A user who has subordinate gids can have such processes, as root of a user namespace.  Here they are started as root.
"""

import os
import re
import socket
from pathlib import Path

import pytest

import nsbroker
from nsbroker.namespace import Namespace
from tests.world import ALICE, Daemon, as_user

pytestmark = pytest.mark.root

OPEN = b'{"method":"io.nsbroker.Broker.Open","parameters":{"target":{"name":"blue"},"types":["net"]}}\0'
NGROUPS_MAX = 65536  # getgroups(2)
FEW = 65


def memory_of(pid: int) -> int:
    """Return the bytes of memory that are in use by the process alone."""
    (kilobytes,) = re.findall(r"(?m)^RssAnon:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text())
    return 1024 * int(kilobytes)


def call_with_groups(daemon: Daemon, groups: range, kept: list[socket.socket]) -> None:
    """Let a process of alice with these groups connect and call.  Its connection is added to `kept`."""
    sock = socket.socket(socket.AF_UNIX)
    child = os.fork()
    if child == 0:
        try:
            os.setgroups(groups)
            os.setresgid(ALICE, ALICE, ALICE)
            os.setresuid(ALICE, ALICE, ALICE)
            sock.connect(str(daemon.socket))
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    sock.send(OPEN)
    assert b"PermissionDenied" in sock.recv(65536)
    kept.append(sock)


def test_processes_with_ever_other_groups_take_no_memory_and_keep_nobody_waiting(daemon: Daemon) -> None:
    daemon.allow("group", who=["group:77"], targets=["name:blue"], namespaces=["net"])
    kept: list[socket.socket] = []
    # The first one takes memory that is used again for each of the others.
    call_with_groups(daemon, range(100_000, 100_000 + NGROUPS_MAX), kept)
    before = memory_of(daemon.pid)
    for number in range(1, FEW):
        call_with_groups(daemon, range(100_000 + number, 100_000 + number + NGROUPS_MAX), kept)
    grown = memory_of(daemon.pid) - before
    for sock in kept:
        sock.close()
    assert grown < 20e6, "if they were kept, each process would take 4 MB, also after it has ended"


def test_a_process_with_as_many_groups_as_there_can_be_gets_its_socket(daemon: Daemon, blue: Path) -> None:
    """The groups by which a rule is for it, or by which the kernel allows it something, can be anywhere among them."""
    groups = range(100_000, 100_000 + NGROUPS_MAX)
    daemon.allow("last", who=[f"group:{groups[-1]}"], targets=["name:blue"], sockets=["inet:dgram"])
    allowed = Path("/proc/sys/net/ipv4/ping_group_range")
    with Namespace.from_path(blue) as network:
        network.call(allowed.write_text, f"{groups[-1]} {groups[-1]}")

    def ask() -> int:
        with nsbroker.connect(daemon.address) as broker:
            ping = socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP
            with broker.socket("name:blue", *ping), broker.socket("name:blue", *ping) as sock:
                return os.fstat(sock.fileno()).st_uid

    assert as_user(ALICE, ask, groups) == ALICE
