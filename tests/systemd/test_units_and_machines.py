"""`unit:` and `machined:` targets with a real systemd."""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbroker.errors import AmbiguousTarget, EngineUnavailable, NoSuchTarget, PermissionDenied
from nsbroker.model.identity import NamespaceType
from tests.engines.real import root_file_system
from tests.world import ALICE, SLOWNESS, Daemon, as_user, check_below, eventually

pytestmark = pytest.mark.root


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30 * SLOWNESS)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def inodes(pid: int) -> dict[NamespaceType, int]:
    return {ns_type: os.stat(f"/proc/{pid}/ns/{ns_type}").st_ino for ns_type in NamespaceType}


def opened(daemon: Daemon, target: str) -> dict[NamespaceType, int]:
    with daemon.connect() as broker:
        namespaces = broker.open_all(target)
        for ns in namespaces.values():
            ns.close()
        return {ns_type: ns.inode for ns_type, ns in namespaces.items()}


def prop(unit: str, name: str) -> str:
    return run("systemctl", "show", "--property", name, "--value", unit)


def wait_for_program(unit: str, program: str) -> None:
    """Wait until the unit's main process runs `program`.

    systemd counts a service as started before its process has entered its namespaces and executed its program.
    """

    def runs() -> bool:
        try:
            return Path(f"/proc/{prop(unit, 'MainPID')}/comm").read_text() == f"{program}\n"
        except FileNotFoundError:
            return False

    eventually(runs, f"{unit} is {program}")


@pytest.fixture
def web() -> Iterator[str]:
    """A service with its own network and UTS namespace."""
    run(
        "systemd-run",
        "--collect",
        "--unit=web",
        "-p",
        "StartLimitIntervalSec=0",
        "-p",
        "PrivateNetwork=yes",
        "-p",
        "ProtectHostname=yes",
        "sleep",
        "1000",
    )
    wait_for_program("web.service", "sleep")
    yield "web.service"
    run("systemctl", "stop", "web.service")


@pytest.fixture
def machines() -> Iterator[list[str]]:
    """Two machines of systemd-nspawn."""
    run("systemctl", "start", "systemd-machined")
    tree = root_file_system()
    names = ["vm1", "vm2"]
    for name in names:
        options = ["-p", "Type=notify", "-p", "Delegate=yes"]
        nspawn = ["systemd-nspawn", "--quiet", "--volatile=no", "-D", str(tree), "-M", name, "--keep-unit", "--private-network"]
        run("systemd-run", "--collect", f"--unit={name}", *options, *nspawn, "--read-only", "/bin/busybox", "sleep", "1000")
    yield names
    for name in names:
        # The test may have stopped the machine already.
        subprocess.run(["systemctl", "stop", name], capture_output=True)
        eventually(lambda: not Path("/run/systemd/machines", name).exists(), "machined forgets it")  # noqa: B023 - called at once


def test_a_service_is_its_main_process(web: str, daemon: Daemon) -> None:
    pid = int(prop(web, "MainPID"))
    assert opened(daemon, f"unit:{web}") == inodes(pid)
    assert inodes(pid)[NamespaceType.NET] != os.stat("/proc/self/ns/net").st_ino


def test_a_scope_is_its_oldest_process(daemon: Daemon) -> None:
    shell = subprocess.Popen(
        ["systemd-run", "--scope", "--quiet", "--unit=work", "sh", "-c", "unshare --net sleep 1000 & sleep 1000; wait"]
    )
    try:
        group = Path("/sys/fs/cgroup/system.slice/work.scope/cgroup.procs")
        eventually(lambda: group.exists() and bool(group.read_text()), "the scope has a process")
        assert opened(daemon, "unit:work.scope") == inodes(shell.pid)
    finally:
        run("systemctl", "stop", "work.scope")
        shell.wait()


def test_a_unit_restarted_is_the_new_process(web: str, daemon: Daemon) -> None:
    with daemon.connect() as broker, contextlib.ExitStack() as kept:
        for _ in range(10):
            # It is kept open, so that the kernel does not give its number to the next one.
            before = kept.enter_context(broker.open(f"unit:{web}", "net"))
            run("systemctl", "restart", web)
            wait_for_program(web, "sleep")
            now = opened(daemon, f"unit:{web}")
            assert now == inodes(int(prop(web, "MainPID")))
            assert now[NamespaceType.NET] != before.inode


def test_units_that_do_not_run_or_do_not_exist_are_errors(daemon: Daemon) -> None:
    run("systemd-run", "--unit=done", "--remain-after-exit", "true")
    eventually(lambda: prop("done.service", "SubState") == "exited", "it is done")
    with daemon.connect() as broker:
        with pytest.raises(NoSuchTarget, match=r"has no process: it is active \(exited\)"):
            broker.open("unit:done.service", "net")
        with pytest.raises(NoSuchTarget, match="no such unit"):
            broker.open("unit:missing.service", "net")
        with pytest.raises(NoSuchTarget, match="has no process"):
            broker.open("unit:dbus.socket", "net")
    run("systemctl", "stop", "done.service")


def test_a_rule_names_a_unit_as_target_and_as_peer(web: str, daemon: Daemon) -> None:
    daemon.allow("web", who=[f"user:{ALICE}"], targets=["unit:web.*"], namespaces=["net"])

    def look() -> list[str]:
        found = []
        with daemon.connect() as broker:
            for target in ("unit:web.service", "unit:web.missing.service", "unit:dbus.service"):
                try:
                    broker.open(target, "net").close()
                    found.append("opened")
                except (NoSuchTarget, PermissionDenied) as error:
                    found.append(type(error).__name__)
        return found

    assert as_user(ALICE, look) == ["opened", "NoSuchTarget", "PermissionDenied"]


def test_a_machine_by_name_and_by_its_beginning(machines: list[str], daemon: Daemon) -> None:
    for name in machines:
        leader = int(run("machinectl", "show", name, "--property", "Leader", "--value"))
        assert opened(daemon, f"machined:{name}") == opened(daemon, f"container:{name}") == inodes(leader)
    with daemon.connect() as broker:
        listed = {one.names[0]: one.network_namespace for one in broker.containers().containers if one.engine == "machined"}
        assert sorted(listed) == machines
        with pytest.raises(AmbiguousTarget) as ambiguous:
            broker.open("machined:vm", "net")
        assert ambiguous.value.candidates == ["machined:vm1", "machined:vm2"]
        with pytest.raises(NoSuchTarget, match="no container has that name"):
            broker.open("machined:vm3", "net")
    run("systemctl", "stop", machines[1])
    leader = int(run("machinectl", "show", machines[0], "--property", "Leader", "--value"))
    eventually(lambda: not Path("/run/systemd/machines", machines[1]).exists(), "machined forgets it")
    assert opened(daemon, "machined:vm") == inodes(leader)


def test_a_machine_that_was_registered_to_point_at_a_victim_is_not_opened(web: str, daemon: Daemon) -> None:
    run("systemctl", "start", "systemd-machined")
    victim = int(prop(web, "MainPID"))
    bus = ["busctl", "call", "org.freedesktop.machine1", "/org/freedesktop/machine1", "org.freedesktop.machine1.Manager"]
    run(*bus, "RegisterMachine", "sayssus", "fake", "0", "nspawn", "container", str(victim), "")
    assert run("machinectl", "show", "fake", "--property", "Leader", "--value") == str(victim)
    with daemon.connect() as broker:
        with pytest.raises(NoSuchTarget, match=f"process {victim}, which the engine names, is not the container's"):
            broker.open("machined:fake", "net")
        assert "fake" not in [one.names[0] for one in broker.containers().containers]
    run(*bus, "UnregisterMachine", "s", "fake")


def test_without_a_bus_units_are_unavailable_and_nothing_else_is(web: str, daemon: Daemon) -> None:
    os.rename("/run/dbus/system_bus_socket", "/run/dbus/away")
    try:
        with daemon.connect() as broker:
            with pytest.raises(EngineUnavailable, match="no D-Bus at /run/dbus/system_bus_socket"):
                broker.open(f"unit:{web}", "net")
            broker.open("self", "net").close()
    finally:
        os.rename("/run/dbus/away", "/run/dbus/system_bus_socket")


def test_signals_that_anybody_sends_over_the_bus_delay_nobody(web: str, daemon: Daemon) -> None:
    # The signals go to every connection that the daemon makes.  The bus numbers its connections, so their names can be guessed.
    send_signals = (
        "import subprocess, sys\n"
        "for number in range(int(sys.argv[1]), int(sys.argv[1]) + 200):\n"
        "    subprocess.run(['busctl', 'emit', f'--destination=:1.{number}', '/x', 'x.y', 'Z', 'ay', '40000', *['7'] * 40000],"
        " capture_output=True)\n"
    )
    names = run("busctl", "list", "--unique", "--no-legend").split()
    newest = max(int(name[3:]) for name in names if name.startswith(":1."))
    sender = subprocess.Popen(["python3", "-c", send_signals, str(newest)])

    def measure() -> float:
        slowest = 0.0
        with daemon.connect() as broker:
            for _ in range(30):
                start = time.monotonic()
                broker.open(f"unit:{web}", "net").close()
                slowest = max(slowest, time.monotonic() - start)
        return slowest

    try:
        check_below(SLOWNESS, measure, "seconds of the slowest call")
    finally:
        sender.kill()
        sender.wait()


def test_a_unit_of_many_processes_costs_no_descriptors(daemon: Daemon) -> None:
    crowd = subprocess.Popen(
        ["systemd-run", "--scope", "--quiet", "--unit=crowd", "sh", "-c", "for i in $(seq 300); do sleep 1000 & done; wait"]
    )
    group = Path("/sys/fs/cgroup/system.slice/crowd.scope/cgroup.procs")
    eventually(lambda: group.exists() and len(group.read_text().split()) > 300, "the scope is full")
    before = daemon.snapshot()
    try:
        for _ in range(3):
            assert opened(daemon, "unit:crowd.scope") == inodes(crowd.pid)
        daemon.settles_at(before)
    finally:
        run("systemctl", "stop", "crowd.scope")
        crowd.wait()
