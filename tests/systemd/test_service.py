"""The units in use: start on demand, exit when idle, restart, watchdog, reload, hardening and removal."""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from nsbroker.client.blocking import connect
from nsbroker.errors import Misconfigured, NsbrokerError, PermissionDenied, RecordFailed
from nsbroker.linux.process import Process
from nsbroker.model.identity import NamespaceType
from tests.engines.real import WORK, Crun, wait_for_end
from tests.systemd.unit import ADDRESS, TEST_POLICY, Unit
from tests.world import ALICE, Sleeper, as_user, eventually, run_command

pytestmark = pytest.mark.root
CLIENTS = 20
ROUNDS = 20
CALLS = 5


def ask() -> int:
    with connect(ADDRESS, timeout=10) as broker:
        return broker.who_am_i().uid


def test_a_call_starts_the_broker_and_it_exits_when_idle(unit: Unit) -> None:
    unit.serve("--idle-timeout", "0.5")
    assert unit.prop("ActiveState") == "inactive"
    for _ in range(3):
        assert as_user(ALICE, ask) == ALICE
        assert unit.prop("ActiveState") == "active"
        unit.wait_for("inactive")
        assert unit.prop("Result") == "success"


def test_idle_exits_and_restarts_lose_no_call(unit: Unit, sleeper: Sleeper) -> None:
    # The test starts the service sixty times a minute, which the limits of the units would not allow.
    unit.start_always()
    unit.serve("--idle-timeout", "0.2")
    wrong: list[object] = []
    right = [0] * CLIENTS

    def work(number: int) -> None:
        # Half of the clients use one connection for all calls, the others one for each.  Both must survive a restart.
        for turn in range(CALLS if number % 2 else 1):
            with connect(ADDRESS, timeout=20) as broker:
                for _ in range(1 if number % 2 else CALLS):
                    try:
                        with broker.open(f"pid:{sleeper.pid}", "net") as ns:
                            right[number] += ns.inode == sleeper.inode("net")
                    except NsbrokerError as error:
                        wrong.append((number, turn, error))
                    time.sleep(0.01)

    for _ in range(ROUNDS):
        threads = [threading.Thread(target=work, args=(number,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        unit.run("systemctl", "restart", "nsbroker.service")
        for thread in threads:
            thread.join()
        unit.wait_for("inactive")
    assert wrong == []
    assert right == [CALLS * ROUNDS] * CLIENTS


def test_the_status_shows_the_rules_and_a_failed_reload(unit: Unit) -> None:
    ask()
    assert "rules: 2" in unit.prop("StatusText")
    unit.configure('[[allow]]\nname = "more"\nwho = "everyone"\ntargets = ["name:*"]\nnamespaces = ["net"]\n')
    unit.run("systemctl", "reload", "nsbroker.service")
    assert "rules: 3" in unit.prop("StatusText")
    unit.configure("allow = 5")
    unit.run("systemctl", "reload", "nsbroker.service", code=1)
    fault = f"{TEST_POLICY}:1: allow is a whole number: write [[allow]], with two brackets, above each rule"
    eventually(lambda: f"the last reload failed: {fault}" in unit.prop("StatusText"), "the status shows the fault")
    assert "rules: 3" in unit.prop("StatusText")
    assert f"the rules of before are in force: {fault}" in run_command("status", address=ADDRESS).stdout
    messages = [entry["MESSAGE"] for entry in unit.entries("PRIORITY=3")]
    assert f"nsbroker: reloading failed, the old policy stays in force: {fault}" in messages
    assert f"nsbroker: {fault}" in [entry["MESSAGE"] for entry in unit.entries()], "the check says it, too"
    assert not [entry for entry in unit.entries() if "WRITTEN-IN" in entry["MESSAGE"]], "the rules are not in the journal"
    assert unit.prop("ActiveState") == "active"
    assert ask() == 0
    unit.configure("")
    unit.run("systemctl", "reload", "nsbroker.service")
    eventually(lambda: "the last reload failed" not in unit.prop("StatusText"), "the status shows no fault")


def test_a_configuration_that_is_broken_at_the_start_is_told_to_clients_and_repaired_by_a_reload(unit: Unit) -> None:
    with connect(ADDRESS, timeout=10) as broker:
        for ns in broker.create(["net"], name="lab").namespaces.values():
            kept = ns.inode
            ns.close()
    unit.configure("allow = 5")
    unit.run("systemctl", "restart", "nsbroker.service")
    fault = f"{TEST_POLICY}:1: allow is a whole number: write [[allow]], with two brackets, above each rule"
    with pytest.raises(Misconfigured) as told:
        ask()
    assert told.value.reason == fault

    def refused() -> str:
        with pytest.raises(Misconfigured) as caught:
            ask()
        return str(caught.value)

    told_to_alice = as_user(ALICE, refused)
    assert "only root is told what is wrong" in told_to_alice
    assert "run `nsbroker check-config`" in told_to_alice
    assert (unit.prop("ActiveState"), unit.prop("NRestarts")) == ("active", "0")
    assert fault in unit.prop("StatusText")
    promise = f"every call is refused, because the configuration is broken: {fault}"
    assert [entry for entry in unit.entries("PRIORITY=3") if promise in entry["MESSAGE"]]
    assert fault in run_command("status", address=ADDRESS).stdout
    unit.run("systemctl", "reload", "nsbroker.service", code=1)
    assert unit.prop("NFileDescriptorStore") == "1"
    pid = unit.pid
    unit.configure("")
    unit.run("systemctl", "reload", "nsbroker.service")
    with connect(ADDRESS, timeout=10) as broker:
        eventually(lambda: broker.status().configuration_fault is None, "the configuration is loaded")
        with broker.open("name:lab", "net") as ns:
            assert ns.inode == kept
        broker.release("lab")
    assert unit.pid == pid


def test_a_broker_that_hangs_is_restarted_by_the_watchdog(unit: Unit) -> None:
    unit.set(WatchdogSec="1s")
    ask()
    first = unit.pid
    time.sleep(2)
    assert unit.pid == first, "a broker that does not hang is not restarted"
    os.kill(first, signal.SIGSTOP)
    assert as_user(ALICE, ask) == ALICE, "the new process answers"
    assert unit.pid not in (0, first)
    assert int(unit.prop("NRestarts")) == 1


def test_a_broker_that_is_killed_is_restarted(unit: Unit) -> None:
    with connect(ADDRESS, timeout=10) as broker:
        broker.who_am_i()
        for _ in range(5):
            first = unit.pid
            os.kill(first, signal.SIGKILL)
            # A call that the old process had already read would be lost.
            wait_for_end(first)
            assert broker.who_am_i().uid == 0


def test_every_verdict_is_found_in_the_journal_and_explained(unit: Unit, sleeper: Sleeper) -> None:
    def refused() -> None:
        with connect(ADDRESS, timeout=10) as broker, pytest.raises(PermissionDenied):
            broker.open(f"pid:{sleeper.pid}", "net")

    as_user(ALICE, refused)
    with connect(ADDRESS, timeout=10) as broker:
        broker.open(f"pid:{sleeper.pid}", "net").close()
    matches = f"NSBROKER_PEER_UID={ALICE}", f"NSBROKER_TARGET=pid:{sleeper.pid}"
    (denied,) = unit.entries(*matches)
    assert (denied["NSBROKER_METHOD"], denied["NSBROKER_TARGET"], denied["NSBROKER_VERDICT"]) == (
        "Open",
        f"pid:{sleeper.pid}",
        "denied",
    )
    (allowed,) = unit.entries("NSBROKER_VERDICT=allowed", f"NSBROKER_TARGET=pid:{sleeper.pid}")
    assert allowed["NSBROKER_NAMESPACES"] == f"net:[{sleeper.inode('net')}]"
    explained = unit.run("journalctl", "-x", "-t", "nsbroker", *matches, "--no-pager")
    assert f"Subject: Open of pid:{sleeper.pid} was denied to uid {ALICE}" in explained
    assert "systemctl reload nsbroker" in explained
    with connect(ADDRESS, timeout=10) as broker:
        broker.list(["net"])
        broker.restrict([])
    unit.entries("NSBROKER_VERDICT=allowed")
    texts = unit.run("journalctl", "-x", "-t", "nsbroker", "--no-pager")
    assert "Subject: List of * was allowed to uid 0" in texts
    assert "NSBROKER_" not in texts, "a field that a record lacks"


def test_the_record_names_the_unit_that_asked(unit: Unit) -> None:
    unit.run("systemd-run", "--wait", "--quiet", "--unit=caller", "-p", "User=nobody", unit.program, "show", "self")
    (entry,) = unit.entries("NSBROKER_PEER_UNIT=caller.service")
    assert entry["NSBROKER_VERDICT"] == "allowed"


def test_calls_fail_within_the_deadline_while_the_journal_hangs(unit: Unit, sleeper: Sleeper) -> None:
    with connect(ADDRESS, timeout=10) as broker:
        broker.who_am_i()
        unit.run("systemctl", "kill", "-s", "STOP", "systemd-journald.service")
        try:
            slowest, outcome = 0.0, "opened"
            for _ in range(5000):
                start = time.monotonic()
                try:
                    broker.open(f"pid:{sleeper.pid}", "net").close()
                except RecordFailed:
                    outcome = "refused"
                slowest = max(slowest, time.monotonic() - start)
                if outcome == "refused":
                    break
            assert outcome == "refused"
            assert slowest < 5
            assert broker.who_am_i().uid == 0
        finally:
            unit.run("systemctl", "kill", "-s", "CONT", "systemd-journald.service")
        end = time.monotonic() + 10
        while True:
            try:
                broker.open(f"pid:{sleeper.pid}", "net").close()
                break
            except RecordFailed:
                assert time.monotonic() < end
                time.sleep(0.05)


def test_a_user_cannot_hide_calls_among_many_others(unit: Unit, sleeper: Sleeper) -> None:
    """All records are in the journal, although journald's own rate limit would drop most of them."""
    settings = Path("/run/systemd/journald.conf.d/test.conf")
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text("[Journal]\nRateLimitIntervalSec=30s\nRateLimitBurst=10\n")
    unit.run("systemctl", "restart", "systemd-journald.service")
    try:
        with connect(ADDRESS, timeout=10) as broker:
            for _ in range(400):
                broker.open(f"pid:{sleeper.pid}", "net").close()
        assert len(unit.entries("NSBROKER_VERDICT=allowed", f"NSBROKER_TARGET=pid:{sleeper.pid}")) == 400
    finally:
        settings.unlink()
        unit.run("systemctl", "restart", "systemd-journald.service")


def test_all_methods_work_in_the_hardened_service(unit: Unit, sleeper: Sleeper) -> None:
    score = unit.run("systemd-analyze", "security", "--no-pager", "nsbroker.service").splitlines()[-1]
    assert float(score.split(":")[1].split()[0]) <= 3.5, score
    subprocess.run(["ip", "netns", "add", "blue"], check=True)
    WORK.mkdir(exist_ok=True)
    crun = Crun()
    # To manage control groups, crun would need CAP_SYS_RESOURCE here, which test machines may lack.
    crun.options = ["--cgroup-manager=disabled"]
    crun.start()
    crun.make("web")
    unit.run("systemctl", "start", "systemd-machined")
    try:
        ask()
        # This is mounted while the broker runs, and has to become visible in the mount namespace of the service.
        subprocess.run(["ip", "netns", "add", "green"], check=True)
        probes = ["self", f"pid:{sleeper.pid}", "name:blue", "name:green", "path:/run/netns/blue", f"net:[{sleeper.inode('net')}]",
                  "unit:dbus.service",
                  "crun:web", "container:we", f"tid:{sleeper.pid}/{sleeper.pid}"]  # fmt: skip
        for target in probes:
            shown = run_command("show", target, "--type", "net", "--json", address=ADDRESS)
            assert shown.returncode == 0, f"{target}: {shown.stderr}"
        for command in (("containers",), ("status",), ("whoami",), ("explain", "self")):
            assert run_command(*command, address=ADDRESS).returncode == 0, command
        for ns_type in NamespaceType:
            assert run_command("show", f"pid:{sleeper.pid}", "--type", ns_type, address=ADDRESS).returncode == 0, ns_type
    finally:
        crun.close()
        for name in ("blue", "green"):
            subprocess.run(["ip", "netns", "del", name])


def test_every_type_that_can_be_created_is_created_by_the_hardened_service(unit: Unit) -> None:
    creatable = [ns_type for ns_type in NamespaceType if ns_type not in (NamespaceType.USER, NamespaceType.PID)]
    with connect(ADDRESS) as broker:
        made = broker.create(creatable).namespaces
        assert [*made] == creatable
        for ns in made.values():
            ns.close()
    # Some versions of systemd know all of these types, but do not restrict all of them.
    assert set(unit.prop("RestrictNamespaces").split()) == set(creatable)


def test_a_rootless_engine_is_queried_by_the_hardened_service_too(unit: Unit) -> None:
    session = Path(f"/run/user/{ALICE}")
    users = Path("/etc/passwd")
    known = users.read_text()
    users.write_text(f"{known}alice:x:{ALICE}:{ALICE}::/home/alice:/bin/sh\n")
    try:
        with Sleeper("--user --net", uid=0) as other, Sleeper("", uid=ALICE) as own:
            for name, sleeper in (("mine", own), ("theirs", other)):
                (session / "crun" / name).mkdir(parents=True)
                with Process.open(sleeper.pid) as process:
                    state = f'{{"pid":{sleeper.pid},"process-start-time":{process.start_time()}}}'
                (session / "crun" / name / "status").write_text(state)
            for place in (session, *session.rglob("*")):
                os.chown(place, ALICE, ALICE)
            session.chmod(0o700)
            shown = run_command("show", "crun:mine", "--type", "net", uid=ALICE, address=ADDRESS)
            assert shown.returncode == 0, shown.stderr
            assert run_command("show", "crun:theirs", "--type", "net", uid=ALICE, address=ADDRESS).returncode == 1
            listed = run_command("containers", uid=ALICE, address=ADDRESS).stdout
            assert "mine" in listed
            assert "theirs" not in listed
    finally:
        users.write_text(known)
        shutil.rmtree(session, ignore_errors=True)


def test_remove_units_leaves_no_trace(unit: Unit) -> None:
    ask()
    unit.run(unit.program, "remove-units")
    assert subprocess.run(["systemctl", "cat", "nsbroker.service"], capture_output=True).returncode != 0
    places = ["/usr/local/lib/systemd", "/usr/local/lib/sysusers.d", "/usr/local/lib/tmpfiles.d", "/run/nsbroker"]
    places += ["/run/varlink/registry/io.nsbroker.Broker", "/etc/systemd/system/sockets.target.wants/nsbroker.socket"]
    for place in places:
        assert not os.path.lexists(place), place
    assert "nsbroker" not in Path("/etc/group").read_text()
    unit.run(unit.program, "install-units")


def test_varlinkctl_can_call_the_broker(unit: Unit) -> None:
    if not Path("/usr/bin/varlinkctl").exists():
        pytest.skip("this systemd has no varlinkctl: Debian 13's has")
    introspected = unit.run("varlinkctl", "introspect", ADDRESS, "io.nsbroker.Broker")
    assert "method ListContainers" in introspected
    reply = json.loads(unit.run("varlinkctl", "call", ADDRESS, "io.nsbroker.Broker.WhoAmI", "{}"))
    assert reply["peer"]["uid"] == 0
    assert "PermissionDenied" in subprocess.run(
        ["varlinkctl", "call", ADDRESS, "io.nsbroker.Broker.Open", '{"target":{"unit":"x.service"}}'],
        capture_output=True, text=True, user=ALICE, group=ALICE, extra_groups=[],
    ).stderr  # fmt: skip
