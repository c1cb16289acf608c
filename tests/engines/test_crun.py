"""Many containers of one runtime, their states and their changes.

None is called `web`: the control groups are those of the machine, and the demo, whose test may run at the same time, has one of
that name.
"""

import contextlib
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbroker.errors import NoSuchTarget
from nsbroker.linux.process import Process
from tests.capture import reader
from tests.capture.wire import needs_libpcap
from tests.engines.conftest import started
from tests.engines.real import Crun, end_process
from tests.world import ALICE, BOB, SLOWNESS, Daemon, Sleeper, as_user, check_below, run_command, start_command

pytestmark = pytest.mark.root
MANY = 100


@pytest.fixture(scope="module")
def crun() -> Iterator[Crun]:
    for engine in started(Crun):
        assert isinstance(engine, Crun)
        yield engine


def net(pid: int) -> int:
    return os.stat(f"/proc/{pid}/ns/net").st_ino


def test_a_hundred_containers_are_listed_and_each_opens_by_its_name(crun: Crun, daemon: Daemon) -> None:
    before = daemon.snapshot()
    expected: dict[str, int] = {}
    for number in range(MANY):
        crun.make(f"c{number:03}")
        expected[f"c{number:03}"] = net(crun.pid(f"c{number:03}"))
    with daemon.connect() as broker:
        listed = {one.names[0]: one.network_namespace for one in broker.containers().containers}
        assert listed == expected
        for name, inode in expected.items():
            with broker.open(f"container:{name}", "net") as ns:
                assert ns.inode == inode
    assert len(run_command("containers", address=daemon.address).stdout.splitlines()) == MANY + 1
    for name in expected:
        crun.remove(name)
    with daemon.connect() as broker:
        assert broker.containers().containers == []
    daemon.settles_at(before)


def test_a_container_replaced_by_another_of_the_same_name_a_hundred_times(crun: Crun, daemon: Daemon) -> None:
    with daemon.connect() as broker:
        for _ in range(100):
            crun.make("replaced")
            with broker.open("crun:replaced", "net") as ns:
                assert ns.inode == net(crun.pid("replaced"))
            crun.remove("replaced")
            with pytest.raises(NoSuchTarget):
                broker.open("crun:replaced", "net")


def test_a_paused_container_opens_and_is_listed_as_paused(crun: Crun, daemon: Daemon) -> None:
    crun.make("paused")
    crun.pause("paused")
    with daemon.connect() as broker:
        broker.open("crun:paused", "net").close()
        assert [one.state for one in broker.containers().containers] == ["paused"]
    crun.unpause("paused")
    with daemon.connect() as broker:
        assert [one.state for one in broker.containers().containers] == ["running"]
    crun.remove("paused")


def test_a_process_number_that_was_given_out_again_is_not_trusted(crun: Crun, daemon: Daemon) -> None:
    crun.make("old")
    crun.make("victim")
    old, victim = Path("/run/crun/old/status"), crun.pid("victim")
    # This is how an outdated state file looks after its process number was given out again.
    text = old.read_text().replace(f'"pid": {crun.pid("old")}', f'"pid": {victim}')
    end_process(crun.pid("old"))
    shutil.copy(old, "/run/engines/status")
    old.write_text(text)
    with daemon.connect() as broker:
        with pytest.raises(NoSuchTarget, match=f"process {victim}, which the engine names, is not the container's"):
            broker.open("crun:old", "net")
        assert [one.names for one in broker.containers().containers] == [["victim"]]
    shutil.copy("/run/engines/status", old)
    crun.remove("old")
    crun.remove("victim")


def test_five_thousand_containers_delay_no_other_user(daemon: Daemon, sleeper: Sleeper) -> None:
    place = daemon.folder / "crun"
    with Process.open(sleeper.pid) as process:
        state = f'{{"pid":{sleeper.pid},"process-start-time":{process.start_time()}}}'
    for number in range(5000):
        (place / f"c{number}").mkdir(parents=True)
        (place / f"c{number}/status").write_text(state)
    (daemon.config / "nsbroker.d/engines.toml").write_text(f'[engines]\ncrun = ["{place}"]\n')
    daemon.allow("alice", who=[f"user:{ALICE}"], targets=["crun:*"], namespaces=["net"])
    daemon.allow("bob", who=[f"user:{BOB}"], targets=["crun:c4321"], namespaces=["net"])

    def times(uid: int, target: str, many: int) -> list[float]:
        def ask() -> list[float]:
            found = []
            with daemon.connect() as broker:
                for _ in range(many):
                    start = time.monotonic()
                    with contextlib.suppress(NoSuchTarget):
                        broker.open(target, "net").close()
                    found.append(time.monotonic() - start)
            return sorted(found)

        return as_user(uid, ask)

    def attack() -> float:
        """Return how many times longer than allowed the slow calls of others took."""
        idle = times(BOB, "crun:c4321", 100)
        attackers = [
            # One is by the name of a container, one by a name that no container has.
            threading.Thread(target=times, args=(ALICE, target, many))
            for target, many in (("crun:c77", 1000), ("crun:missing", 300))
        ]
        for attacker in attackers:
            attacker.start()
        busy = times(BOB, "crun:c4321", 200)
        loop = times(0, "self", 200)
        for attacker in attackers:
            attacker.join()
        print(
            f"idle {idle[50] * 1000:.1f} ms, busy {busy[100] * 1000:.1f}, p99 {busy[198] * 1000:.1f}, "
            f"self p99 {loop[198] * 1000:.1f}"
        )
        return max(idle[50] / (0.02 * SLOWNESS), busy[198] / (20 * max(idle[50], 0.003)), loop[198] / (0.05 * SLOWNESS))

    check_below(1, attack, "the slow calls of others, of what is allowed")


@needs_libpcap
def test_a_user_captures_the_packets_of_a_container_until_it_is_removed(crun: Crun, daemon: Daemon) -> None:
    daemon.allow("alice", who=[f"user:{ALICE}"], targets=["crun:captured"], sockets=["packet:raw", "inet:dgram"])
    crun.make("captured")
    with start_command("capture", "crun:captured", "-i", "lo", "udp", uid=ALICE, address=daemon.address) as process:
        assert process.stdout is not None
        text = process.stdout.read1()  # type: ignore[attr-defined]  # the pipe is a BufferedReader
        with daemon.connect() as broker, broker.socket("crun:captured", socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            sock.sendto(b"to itself", sock.getsockname())
        # The network lives as long as the capture.
        crun.remove("captured")
        process.send_signal(signal.SIGINT)
        text += process.stdout.read()
    assert process.returncode == 0
    [packet] = reader.read(text).packets
    assert packet.data.endswith(b"to itself")
    assert (packet.interface.name, packet.interface.description) == ("lo", "crun:captured")
