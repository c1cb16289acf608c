"""References open lazily, again and again, with and without a broker."""

import os
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest

import nsbroker
from nsbroker.errors import InvalidTarget, InvalidType, NoSuchTarget, NotANamespace, TargetChanged
from nsbroker.model.identity import Expectation, NamespaceType
from nsbroker.model.target import Target
from nsbroker.namespace import Namespace
from nsbroker.namespace.reference import Reference
from tests.client.every_client import CLIENTS
from tests.world import Daemon, Sleeper


def test_a_reference_is_text_that_can_be_compared_hashed_and_pickled() -> None:
    one, same = Reference("container:web", "net"), Reference(Target.container("web"), NamespaceType.NET)
    assert one == same
    assert len({one, same, Reference("container:web", "uts"), Reference("docker:web", "net")}) == 3
    assert Reference("container:web", "net", expect=Expectation(inode=7)) != one
    assert (str(one), repr(one)) == ("net of container:web", "<Reference net of container:web>")
    assert pickle.loads(pickle.dumps(one)) == one
    with pytest.raises(AttributeError):
        one.type = NamespaceType.UTS  # type: ignore[misc]  # that it cannot be changed is the point


def test_what_cannot_be_meant_is_refused_at_once_and_nothing_is_looked_up() -> None:
    with pytest.raises(InvalidTarget):
        Reference("contaner:web", "net")
    with pytest.raises(InvalidType):
        Reference("container:web", "network")
    Reference("pid:2147483647", "net")


def test_it_opens_again_and_again_without_a_broker(sleeper: Sleeper) -> None:
    pidfd = os.pidfd_open(sleeper.pid)
    references = [
        Reference(f"pid:{sleeper.pid}", "net"),
        Reference(f"tid:{sleeper.pid}/{sleeper.pid}", "net"),
        Reference(f"path:/proc/{sleeper.pid}/ns/net", "net"),
        Reference(f"net:[{sleeper.inode('net')}]", "net"),
        Reference(Target.pidfd(pidfd), "net"),
    ]
    for reference in references * 2:
        with reference.open() as ns:
            assert (ns.type, ns.inode) == ("net", sleeper.inode("net"))
    with Reference("self", "uts").open() as ns, Namespace.current("uts") as own:
        assert ns == own
    sleeper.end()
    for reference in references:
        with pytest.raises(NoSuchTarget):
            reference.open()
    os.close(pidfd)
    with pytest.raises(InvalidTarget, match="no open pidfd"):
        references[-1].open()


@pytest.mark.root
def test_a_reference_to_a_name_follows_the_name(blue: Path) -> None:
    reference = Reference("name:blue", "net")
    with reference.open() as ns:
        assert ns.inode == blue.stat().st_ino
    Namespace.delete_named("blue")
    with pytest.raises(NoSuchTarget):
        reference.open()
    with Namespace.create("net", name="blue") as new, reference.open() as ns:
        assert ns == new


def test_what_is_expected_is_checked_each_time(sleeper: Sleeper) -> None:
    pidfd = os.pidfd_open(sleeper.pid)
    wrong = Expectation(inode=sleeper.inode("net") + 1)
    for target in (f"pid:{sleeper.pid}", f"path:/proc/{sleeper.pid}/ns/net", f"net:[{sleeper.inode('net')}]", Target.pidfd(pidfd)):
        Reference(target, "net", expect=Expectation(inode=sleeper.inode("net"))).open().close()
        with pytest.raises(TargetChanged, match="inode"):
            Reference(target, "net", expect=wrong).open()
    with pytest.raises(TargetChanged, match="started at"):
        Reference(Target.pidfd(pidfd), "net", expect=Expectation(start_time=1)).open()
    os.close(pidfd)


def test_what_takes_a_broker_says_so() -> None:
    for target in ("container:web", "docker:web", "unit:nginx.service"):
        with pytest.raises(InvalidTarget, match="only the broker can find that"):
            Reference(target, "net").open()
    with pytest.raises(NotANamespace, match="not uts"):
        Reference("net:[4026531840]", "uts").open()


@pytest.mark.parametrize("client", CLIENTS)
async def test_every_client_opens_it(client: str, daemon: Daemon, sleeper: Sleeper) -> None:
    reference = Reference(f"pid:{sleeper.pid}", "net")
    async with CLIENTS[client](daemon.address) as broker:
        for _ in range(2):
            with await reference.open(broker) as ns:
                assert ns.inode == sleeper.inode("net")
        with pytest.raises(TargetChanged):
            await Reference(f"pid:{sleeper.pid}", "net", expect=Expectation(NamespaceType.NET, inode=7)).open(broker)


def test_one_reference_serves_many_threads(sleeper: Sleeper) -> None:
    reference = Reference(f"pid:{sleeper.pid}", "net")
    found: list[Any] = []

    def look() -> None:
        for _ in range(50):
            with reference.open() as ns:
                found.append(ns.inode)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == {sleeper.inode("net")}
    assert len(found) == 200


def test_it_is_at_the_front_door() -> None:
    assert nsbroker.Reference is Reference
