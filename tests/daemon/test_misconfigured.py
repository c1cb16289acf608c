"""A broker that the service manager starts with a broken configuration: it refuses every call, says why, and can be repaired."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbroker.client.blocking import connect
from nsbroker.errors import Misconfigured
from nsbroker.protocol.messages import TEXT
from tests.cli.conftest import one_line
from tests.daemon.test_dispatcher import call
from tests.world import ALICE, Daemon, as_user, eventually, run_command

# Passes a socket that listens at the path $1 to a program, as systemd does (sd_listen_fds(3)).
ACTIVATE = """
import os, socket, sys
path, *command = sys.argv[1:]
os.makedirs(os.path.dirname(path))
sock = socket.socket(socket.AF_UNIX)
sock.bind(path)
os.chmod(path, 0o666)
sock.listen()
sock.set_inheritable(True)
os.dup2(sock.fileno(), 3)
# The folder tests/systemd must not hide the package of that name.
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", PYTHONSAFEPATH="1")
os.execvp(command[0], command)
"""
OURS = [
    f"io.nsbroker.Broker.{line.split()[1].partition('(')[0]}"
    for line in TEXT.read_text().splitlines()
    if line.startswith("method ")
]
WRONG = "allow is a whole number: write [[allow]], with two brackets, above each rule"
PROMISE = "every call is refused, because the configuration is broken"


@pytest.fixture
def activated(tmp_path: Path) -> Iterator[Daemon]:
    """A broker to which a socket was passed, with a drop-in of the configuration that is broken."""
    daemon = Daemon(tmp_path)
    daemon.command = ["env", sys.executable, "-c", ACTIVATE, str(daemon.socket), *daemon.command]
    drop_in(daemon).write_text("allow = 5\n")
    with daemon:
        # This comes after the line that says where it listens.
        eventually(lambda: any(PROMISE in line for line in daemon.words()), "the daemon says what is wrong")
        yield daemon


def drop_in(daemon: Daemon) -> Path:
    return daemon.config / "nsbroker.d/test.toml"


def test_every_method_but_get_status_says_what_is_wrong(activated: Daemon) -> None:
    before = activated.snapshot()
    reason = f"{drop_in(activated)}:1: {WRONG}"
    refusal = {"error": "io.nsbroker.Broker.Misconfigured", "parameters": {"reason": reason}}
    assert len(OURS) > 15
    for method in OURS:
        if method == "io.nsbroker.Broker.GetStatus":
            continue
        # Neither wrong parameters nor descriptors nor `more` make a difference.
        for header in ({}, {"more": True}):
            assert call(activated, method, {"target": 5}, (0,), **header) == refusal, method
    status = call(activated, "io.nsbroker.Broker.GetStatus", {})["parameters"]
    assert (status["configurationFault"], status["rules"], "reloadFault" in status) == (reason, 0, False)
    assert call(activated, "org.varlink.service.GetInfo", {})["parameters"]["vendor"] == "nsbroker"
    assert call(activated, "io.nsbroker.Broker.Opne", {})["error"] == "org.varlink.service.MethodNotFound"
    activated.settles_at(before)
    assert activated.records() == [], "nothing was decided"
    assert f"nsbroker: {PROMISE}: {reason} (repair it, run `nsbroker check-config`" in activated.words()[-1]


def test_commands_say_it_in_one_line(activated: Daemon) -> None:
    line = one_line(run_command("open", "self", "--", "true", address=activated.address), 1)
    assert f"its configuration is broken: {drop_in(activated)}:1: {WRONG} (an admin" in line
    assert "`nsbroker check-config`" in line
    shown = run_command("status", address=activated.address)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert f"broken, so every call is refused: {drop_in(activated)}:1: {WRONG}" in shown.stdout


@pytest.mark.root
def test_others_than_root_are_not_told_what_is_wrong(activated: Daemon) -> None:
    def ask() -> tuple[str, str | None]:
        with connect(activated.address) as broker:
            with pytest.raises(Misconfigured) as caught:
                broker.who_am_i()
            return caught.value.reason, broker.status().configuration_fault

    assert as_user(ALICE, ask) == ("only root is told what is wrong",) * 2


def test_a_reload_repairs_it_and_from_then_on_a_broken_file_leaves_the_rules_in_force(activated: Daemon) -> None:
    with activated.connect() as broker:
        drop_in(activated).write_text("[limit]\n")
        activated.reload()
        with pytest.raises(Misconfigured, match="unknown key 'limit': did you mean 'limits'"):
            broker.who_am_i()
        drop_in(activated).unlink()
        activated.reload()
        assert "reloaded: 2 rules" in activated.words()[-1]
        assert broker.who_am_i().uid == os.geteuid(), "the same connection goes on"
        assert broker.status().configuration_fault is None
        drop_in(activated).write_text("allow = 5\n")
        activated.reload()
        assert "the old policy stays in force" in activated.words()[-1]
        broker.open("self", "net").close()
        status = broker.status()
        assert (status.rules, status.configuration_fault) == (2, None)
        assert status.reload_fault == f"{drop_in(activated)}:1: {WRONG}"
        shown = run_command("status", address=activated.address).stdout
        assert f"the last reload failed, and the rules of before are in force: {drop_in(activated)}:1: {WRONG}" in shown
        drop_in(activated).unlink()
        activated.reload()
        assert broker.status().reload_fault is None


def test_a_connection_that_gave_up_rights_is_not_told_why_a_reload_failed(daemon: Daemon) -> None:
    with daemon.connect() as broker:
        drop_in(daemon).write_text("allow = 5\n")
        daemon.reload()
        assert broker.status().reload_fault
        broker.restrict(["own"])
        assert broker.status().reload_fault is None


@pytest.mark.parametrize("name", ["new\nline.toml", "\udcff.toml"])
def test_whatever_is_in_the_reason_it_is_one_short_line(tmp_path: Path, name: str) -> None:
    daemon = Daemon(tmp_path)
    daemon.command = ["env", sys.executable, "-c", ACTIVATE, str(daemon.socket), *daemon.command]
    (daemon.config / "nsbroker.d" / name).write_text(f'"{"x" * 500_000}" = 5\n')
    with daemon, daemon.connect() as broker:
        with pytest.raises(Misconfigured) as caught:
            broker.who_am_i()
        assert len(caught.value.reason) == 1000
        assert caught.value.reason.isprintable()
        assert broker.status().configuration_fault == caught.value.reason
