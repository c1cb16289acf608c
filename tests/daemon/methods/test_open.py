"""Explain, of more than namespaces; Open and Explain of those are in test_broker."""

import pytest

from nsbroker.client.blocking import connect
from nsbroker.errors import InvalidParameter, InvalidType
from tests.world import ALICE, Daemon, Sleeper, as_user


@pytest.mark.root
def test_explain_says_of_each_socket_and_device_whether_it_is_allowed(daemon: Daemon, sleeper: Sleeper) -> None:
    daemon.allow("some", who=[f"user:{ALICE}"], targets=["pid:*"], sockets=["inet:stream", "inet:stream:80"], devices=["null"])

    def ask() -> list[tuple[str, bool]]:
        with connect(daemon.address) as broker:
            sockets = ["inet:stream", "inet:stream:80", "inet:stream:81"]
            answer = broker.explain(f"pid:{sleeper.pid}", ["net"], sockets=sockets, devices=["null", "kvm"])
            assert not answer.allowed
            verdicts = [(one.name, one.allowed) for one in (*(answer.sockets or ()), *(answer.devices or ()))]
            return [*((str(one.type), one.allowed) for one in answer.verdicts), *verdicts]

    assert as_user(ALICE, ask) == [
        ("net", False), ("inet:stream", True), ("inet:stream:80", True), ("inet:stream:81", False), ("null", True), ("kvm", False),
    ]  # fmt: skip


def test_explain_refuses_what_is_no_kind_of_socket_or_name_of_a_device(daemon: Daemon) -> None:
    with daemon.connect() as broker:
        for devices in (["../mem"], [], ["null", "null"]):
            with pytest.raises(InvalidParameter, match="devices"):
                broker.explain("self", devices=devices)
        with pytest.raises(InvalidType):
            broker.explain("self", sockets=["inet"])
