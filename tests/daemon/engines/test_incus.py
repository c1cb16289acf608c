"""Which control groups prove a container of incus.  tests/incus has a real one.

The server here is written for these tests: a name with a number at its end takes an incus with several containers and projects, and
the groups are made up from its answers alone.
"""

import json
import socket
from pathlib import Path

import pytest

from nsbroker.daemon.engines import incus
from tests.daemon.engines.test_registry import says, server

WEB, SHOP = ("lxc.payload.web",), ("lxc.payload.shop_web",)


def instance(project: str, name: str, kind: str = "container") -> dict[str, object]:
    return {"name": name, "type": kind, "project": project, "state": {"pid": 1, "status": "Running"}}


def answer(instances: list[dict[str, object]], sock: socket.socket, request: bytes) -> None:
    """Answer as incus does: with all instances, with links to those of one project, or with one of them."""
    _, _, rest = request.split()[1].decode().partition("/1.0/instances")
    name, _, parameters = rest.lstrip("/").partition("?")
    of_project = [one for one in instances if f"project={one['project']}" in parameters.split("&")]
    metadata: object = [f"/1.0/instances/{one['name']}" for one in of_project]
    if "all-projects=true" in parameters:
        metadata = instances
    elif name:
        [metadata] = [one for one in of_project if one["name"] == name]
    says(json.dumps({"metadata": metadata}).encode())(sock, request)


@pytest.mark.parametrize(
    ("others", "web", "shop"),
    [
        ([], (*WEB, "lxc.payload.web-1"), (*SHOP, "lxc.payload.shop_web-1")),
        ([("default", "web-1")], WEB, (*SHOP, "lxc.payload.shop_web-1")),
        ([("shop", "web-1")], (*WEB, "lxc.payload.web-1"), SHOP),
    ],
)
async def test_the_group_of_another_container_proves_nothing(
    path: Path, others: list[tuple[str, str]], web: tuple[str, ...], shop: tuple[str, ...]
) -> None:
    instances = [instance(*one) for one in [("default", "web"), ("shop", "web"), *others]]
    with server(path, lambda sock, request: answer(instances, sock, request)):
        engine = incus.engine(path, 0)
        listed = {one.id: one.groups for one in await engine.containers()}
        assert (listed["web"], listed["shop/web"]) == (web, shop)
        for word, groups in (("web", web), ("shop/web", shop)):
            assert {one.id: one.groups for one in await engine.find(word)}[word] == groups
