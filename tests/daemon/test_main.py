"""Signals to the daemon: SIGTERM ends it in order, and SIGHUP reads the configuration again."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from nsbroker.errors import ConnectionFailed
from nsbroker.linux import descriptors
from nsbroker.linux.socket_options import unread_bytes
from tests.daemon.test_server import WHO, is_closed, open_call, replies, seconds_to_stop
from tests.world import PATIENCE, Daemon, Sleeper, check_below, eventually


def test_after_sigterm_the_calls_that_were_sent_are_answered(daemon: Daemon, sleeper: Sleeper) -> None:
    with daemon.raw() as sock, daemon.raw() as late:
        os.kill(daemon.pid, signal.SIGSTOP)
        for _ in range(20):
            sock.send(open_call(pid=sleeper.pid))
        late.send(WHO)
        os.kill(daemon.pid, signal.SIGTERM)
        os.kill(daemon.pid, signal.SIGCONT)
        for reply, fds in replies(sock, 20):
            assert reply["parameters"]["namespaces"][0]["inode"] == sleeper.inode("net")
            descriptors.close_all(fds)
        assert "peer" in replies(late, 1)[0][0]["parameters"]
        assert is_closed(sock)
    assert daemon.process
    assert daemon.process.wait(PATIENCE) == 0
    assert not daemon.socket.exists()
    with pytest.raises(ConnectionFailed, match="is the daemon running"):
        daemon.connect()


def test_sigterm_does_not_wait_for_half_a_message(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)

    def measure() -> float:
        with daemon, daemon.raw() as sock:
            sock.send(WHO[:10])
            eventually(lambda: unread_bytes(sock) == 0, "the daemon reads the half")
            return seconds_to_stop(daemon)

    check_below(4, measure, "seconds until it ended")
    assert daemon.records() == [], "its sender is not to blame"


def test_a_broken_configuration_leaves_the_old_policy_in_force_and_says_so(daemon: Daemon) -> None:
    (daemon.config / "nsbroker.d/bad.toml").write_text("[[alow]]\n")
    daemon.reload()
    assert "the old policy stays in force" in daemon.words()[-1]
    assert "did you mean 'allow'" in daemon.words()[-1]
    with daemon.connect() as broker:
        assert broker.status().rules == 2
    (daemon.config / "nsbroker.d/bad.toml").unlink()
    daemon.reload()
    assert "reloaded: 2 rules" in daemon.words()[-1]


def test_every_mistake_that_a_reload_finds_is_a_line_of_the_log(daemon: Daemon) -> None:
    bad = daemon.config / "nsbroker.d/bad.toml"
    bad.write_text("[[alow]]\n[limits]\nconnections = 0\n")
    daemon.reload()
    said = [f"the old policy stays in force: {bad}:{line}: " for line in (1, 3)]
    eventually(lambda: all(any(words in line for line in daemon.words()) for words in said), "both mistakes are logged")


@pytest.mark.root
def test_it_says_when_it_starts_that_the_shipped_rules_do_not_apply(tmp_path: Path) -> None:
    folder = Path("/run/nsbroker/nsbroker.d")
    daemon = Daemon(tmp_path)
    # Without --config, the system's configuration counts.
    del daemon.command[-2:]
    folder.mkdir(parents=True)
    try:
        (folder / "00-default.toml").symlink_to("/dev/null")
        with daemon:
            [warning] = [line for line in daemon.words() if "the shipped rules do not apply" in line]
            assert f"not read: disabled by {folder}/00-default.toml" in warning
    finally:
        shutil.rmtree(folder.parent)


def test_sighup_while_it_starts_does_not_end_it(tmp_path: Path) -> None:
    """A reload can be asked for at any time.  To systemd, a service that SIGHUP ended has ended as it should."""
    daemon = Daemon(tmp_path)
    with subprocess.Popen(daemon.command, stderr=subprocess.DEVNULL) as process:
        status = Path(f"/proc/{process.pid}/status")
        # An interpreter that has not begun to run any code cannot ignore anything.
        eventually(lambda: bool(int(status.read_text().partition("SigIgn:")[2].split()[0], 16) & 1), "it ignores SIGHUP")
        while process.poll() is None and not daemon.socket.exists():
            process.send_signal(signal.SIGHUP)
            time.sleep(0.001)
        assert process.poll() is None
        # The path exists a moment before anybody listens there.
        eventually(lambda: answers(daemon), "it answers")
        process.terminate()
        assert process.wait(PATIENCE) == 0


def answers(daemon: Daemon) -> bool:
    try:
        with daemon.connect() as broker:
            return broker.who_am_i().uid == os.geteuid()
    except ConnectionFailed:
        return False
