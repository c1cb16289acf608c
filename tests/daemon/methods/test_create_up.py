"""Create with `up`: a new network whose loopback interface works."""

import socket

import pytest

from nsbroker.client.blocking import connect
from nsbroker.errors import InvalidParameter
from nsbroker.model.identity import NamespaceType
from nsbroker.namespace import Namespace
from tests.client.every_client import CLIENTS
from tests.daemon.test_dispatcher import call
from tests.world import ALICE, Daemon, as_user

pytestmark = pytest.mark.root

CREATE = "io.nsbroker.Broker.Create"


def is_up(ns: Namespace) -> bool:
    """Return whether bytes go over the loopback interface."""
    with ns.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto(b"x", ("127.0.0.1", 9))
        except OSError:
            return False
    return True


@pytest.mark.parametrize("client", CLIENTS)
async def test_each_client_can_ask_for_it(client: str, daemon: Daemon) -> None:
    async with CLIENTS[client](daemon.address) as broker:
        for up in (True, False):
            created = await broker.create(["uts", "net"], up=up)
            with created.namespaces[NamespaceType.NET] as net, created.namespaces[NamespaceType.UTS]:
                assert is_up(net) is up


def test_a_network_that_is_held_is_up(daemon: Daemon) -> None:
    with daemon.connect() as broker:
        for ns in broker.create(["net"], name="lab", up=True).namespaces.values():
            ns.close()
        with broker.open("name:lab", "net") as ns:
            assert is_up(ns)


def test_it_takes_no_permission_but_that_to_create(daemon: Daemon) -> None:
    daemon.allow("create", who=[f"user:{ALICE}"], targets=["own"], create=["net"], sockets=["inet:dgram"])

    def make() -> bool:
        with connect(daemon.address) as broker, broker.create(["net"], up=True).namespaces[NamespaceType.NET] as ns:
            return ns.type == "net"

    assert as_user(ALICE, make)


def test_without_a_network_among_the_types_it_is_an_invalid_parameter(daemon: Daemon) -> None:
    with daemon.connect() as broker, pytest.raises(InvalidParameter, match="up"):
        broker.create(["uts"], up=True)
    reply = call(daemon, CREATE, {"types": ["uts"], "up": True})
    assert reply == {"error": "org.varlink.service.InvalidParameter", "parameters": {"parameter": "up"}}
    assert "error" not in call(daemon, CREATE, {"types": ["uts"], "up": False})
    assert call(daemon, CREATE, {"types": ["net"], "up": 1})["parameters"] == {"parameter": "up"}


def test_what_is_created_leaves_nothing_in_the_daemon(daemon: Daemon) -> None:
    before = daemon.snapshot()
    with daemon.connect() as broker:
        for _ in range(5):
            broker.create(["net"], up=True).namespaces[NamespaceType.NET].close()
    daemon.settles_at(before)
