"""Many clients of one user at once, with every kind of target, under the default limits: slow calls wait their turn."""

import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from nsbroker.client.blocking import Broker, connect
from nsbroker.errors import NsbrokerError
from nsbroker.model.target import Target
from tests.engines.real import WORK, Crun
from tests.systemd.unit import Unit
from tests.world import ALICE, SLOWNESS, Sleeper, as_user, named_network

CLIENTS = 64
CALLS = 10_000
# How many calls are answered is limited as by default, but what each of them may take depends on the machine.
RULES = f"""
[limits]
engine-deadline = {2 * SLOWNESS}
device-deadline = {2 * SLOWNESS}
record-deadline = {2 * SLOWNESS}

[[allow]]
name = "alice"
who = ["user:4001"]
targets = ["*"]
namespaces = ["net", "uts"]
sockets = ["inet:stream"]
devices = ["null"]
"""


@contextmanager
def web() -> Iterator[None]:
    """A container."""
    WORK.mkdir(exist_ok=True)
    crun = Crun()
    # To manage control groups, crun would need CAP_SYS_RESOURCE here, which test machines may lack.
    crun.options = ["--cgroup-manager=disabled"]
    crun.start()
    crun.make("web")
    try:
        yield
    finally:
        crun.close()


def one_of_each(sleeper: Sleeper) -> list[Callable[[Broker], object]]:
    """Return a call for each kind of target, and one for each other method that has a target."""
    targets = [
        "self",
        f"pid:{sleeper.pid}",
        f"tid:{sleeper.pid}/{sleeper.pid}",
        "name:lab",
        "path:/run/netns/lab",
        f"net:[{sleeper.inode('net')}]",
        "crun:web",
        "container:web",
        "unit:dbus.service",
    ]

    def opened(target: str) -> Callable[[Broker], object]:
        return lambda broker: broker.open(target, "net").close()

    def pidfd(broker: Broker) -> None:
        fd = os.pidfd_open(sleeper.pid)
        try:
            broker.open(Target.pidfd(fd), "uts").close()
        finally:
            os.close(fd)

    return [
        *map(opened, targets),
        pidfd,
        lambda broker: broker.socket("name:lab", socket.AF_INET).close(),
        lambda broker: broker.device(f"pid:{sleeper.pid}", "null").close(),
        lambda broker: broker.devices(f"pid:{sleeper.pid}"),
        lambda broker: broker.explain("crun:web"),
    ]


def call_all(work: list[Callable[[Broker], object]]) -> Counter[str]:
    """Make all calls, on one thread for each client, and count the outcomes."""
    outcomes: Counter[str] = Counter()
    counting = threading.Lock()

    def client(number: int) -> None:
        with connect(timeout=60 * SLOWNESS) as broker:
            for turn in range(number, CALLS, CLIENTS):
                try:
                    work[turn * 7 % len(work)](broker)
                    outcome = "right"
                except NsbrokerError as error:
                    outcome = f"{type(error).__name__}: {error}"
                with counting:
                    outcomes[outcome] += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


@pytest.mark.timeout(300 * SLOWNESS)
def test_not_one_of_ten_thousand_calls_from_64_clients_is_refused(unit: Unit) -> None:
    unit.configure(RULES)
    with ExitStack() as stack:
        stack.enter_context(named_network("lab"))
        sleeper = stack.enter_context(Sleeper(unshare="--net --uts --mount"))
        stack.enter_context(web())
        work = one_of_each(sleeper)
        assert as_user(ALICE, lambda: call_all(work)) == {"right": CALLS}
