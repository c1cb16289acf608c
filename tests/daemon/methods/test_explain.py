"""Explain: what it says of namespaces, sockets and devices, and that it reveals no more than Open."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nsbroker.client.blocking import connect
from nsbroker.errors import InvalidParameter, InvalidType, NoSuchTarget
from tests.world import ALICE, BOB, Daemon, Sleeper, as_user


@pytest.mark.root
def test_explain_says_of_each_socket_and_device_whether_it_is_allowed(daemon: Daemon, sleeper: Sleeper) -> None:
    allowed = {"sockets": ["inet:stream", "inet:stream:80"], "devices": ["null"], "files": ["net/dev"]}
    daemon.allow("some", who=[f"user:{ALICE}"], targets=["pid:*"], **allowed)

    def ask() -> list[tuple[str, bool]]:
        with connect(daemon.address) as broker:
            sockets = ["inet:stream", "inet:stream:80", "inet:stream:81"]
            files = ["net/dev", "hosts"]
            reply = broker.explain(f"pid:{sleeper.pid}", ["net"], sockets=sockets, devices=["null", "kvm"], files=files)
            assert not reply.allowed
            others = (*(reply.sockets or ()), *(reply.devices or ()), *(reply.files or ()))
            verdicts = [(one.name, one.allowed) for one in others]
            return [*((str(one.type), one.allowed) for one in reply.verdicts), *verdicts]

    assert as_user(ALICE, ask) == [
        ("net", False), ("inet:stream", True), ("inet:stream:80", True), ("inet:stream:81", False), ("null", True), ("kvm", False),
        ("net/dev", True), ("hosts", False),
    ]  # fmt: skip


def test_explain_refuses_invalid_kinds_of_sockets_and_names_of_devices(daemon: Daemon) -> None:
    with daemon.connect() as broker:
        for devices in (["../mem"], [], ["null", "null"]):
            with pytest.raises(InvalidParameter, match="devices"):
                broker.explain("self", devices=devices)
        for files in (["passwd"], [], ["hosts", "hosts"]):
            with pytest.raises(InvalidParameter, match="files"):
                broker.explain("self", files=files)
        for sockets in ([], ["inet:stream", "inet:stream"]):
            with pytest.raises(InvalidParameter, match="sockets"):
                broker.explain("self", sockets=sockets)
        with pytest.raises(InvalidParameter, match="devices"):
            broker.explain("self", sockets=["inet:stream"], devices=["null", "null"])
        with pytest.raises(InvalidType):
            broker.explain("self", sockets=["inet"])


@pytest.mark.root
def test_explain_names_the_rule_and_reveals_no_more_than_open(daemon: Daemon, sleeper: Sleeper, blue: Path) -> None:
    daemon.allow("alice", who=[f"user:{ALICE}"], targets=["name:*"], namespaces=["net"])

    def ask(target: str) -> Callable[[], tuple[bool, list[tuple[str, str | None]]]]:
        def look() -> tuple[bool, list[tuple[str, str | None]]]:
            with connect(daemon.address) as broker:
                reply = broker.explain(target, ["net", "uts"] if target.startswith("pid") else None)
            return reply.allowed, [(str(verdict.type), verdict.rule) for verdict in reply.verdicts]

        return look

    assert as_user(ALICE, ask("name:blue")) == (True, [("net", "alice")])
    assert as_user(ALICE, ask(f"pid:{sleeper.pid}")) == (False, [("net", None), ("uts", None)])
    assert as_user(ALICE, ask(f"pid:{2**31 - 1}")) == (False, [("net", None), ("uts", None)])
    assert as_user(BOB, ask("name:blue"))[0] is False
    with daemon.connect() as broker, pytest.raises(NoSuchTarget):
        broker.explain("name:green")
