"""`nsbroker exec`."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import nsbroker
from nsbroker.cli.execute import execute
from nsbroker.errors import CommandFailed
from tests.cli.conftest import one_line
from tests.terminal import REPORTER, Terminal
from tests.world import ALICE, PATIENCE, Daemon, Sleeper, run_command, start_command


@pytest.fixture
def inside() -> Iterator[int]:
    """The pid of a process in a PID namespace and a mount namespace of its own.  A command that enters them is a child."""
    with Sleeper("--pid --fork --kill-child --mount-proc") as parent:
        yield int(Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text())


@pytest.mark.root
def test_exec_enters_namespaces_that_it_is_not_in(daemon: Daemon, sleeper: Sleeper) -> None:
    done = run_command(
        "exec", f"pid:{sleeper.pid}", "--", "readlink", "/proc/self/ns/net", "/proc/self/ns/uts", address=daemon.address
    )
    assert done.stdout.split() == [f"net:[{sleeper.inode('net')}]", f"uts:[{sleeper.inode('uts')}]"]


@pytest.mark.root
def test_exec_enters_a_pid_namespace_with_a_child_and_returns_its_exit_code(daemon: Daemon, inside: int) -> None:
    done = run_command("exec", f"pid:{inside}", "--", "sh", "-c", "echo $$; exit 7", address=daemon.address)
    assert (done.stdout, done.returncode) == ("2\n", 7)
    assert run_command("exec", f"pid:{inside}", "--", "sh", "-c", "kill -KILL $$", address=daemon.address).returncode == 137
    done = run_command("exec", f"pid:{inside}", "--", "nowhere", address=daemon.address)
    assert "cannot run 'nowhere': No such file" in one_line(done, 127)
    assert "cannot run '/etc': Permission denied" in one_line(
        run_command("exec", f"pid:{inside}", "--", "/etc", address=daemon.address), 126
    )


@pytest.mark.root
def test_exec_loads_nothing_from_the_mount_namespace_that_it_has_entered(daemon: Daemon, inside: int) -> None:
    for module in (os, nsbroker):
        folder = str(Path(str(module.__file__)).parent)
        subprocess.run(["nsenter", "--mount", f"--target={inside}", "mount", "-t", "tmpfs", "none", folder], check=True)
    done = run_command("exec", f"pid:{inside}", "--", "sh", "-c", "exit 7", address=daemon.address)
    assert (done.returncode, done.stderr) == (7, "")
    one_line(run_command("exec", f"pid:{inside}", "--", "/nowhere", address=daemon.address), 127)


@pytest.mark.root
def test_exec_passes_on_the_signals_that_others_send(daemon: Daemon, inside: int) -> None:
    command = ["exec", f"pid:{inside}", "--", sys.executable, "-c", REPORTER]
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        with start_command(*command, address=daemon.address) as process:
            assert process.stdout
            assert process.stdout.readline() == b"ready\n"
            process.send_signal(number)
            assert process.stdout.read().decode().split() == [number.name]
            assert process.wait(PATIENCE) == 5


@pytest.mark.root
def test_the_terminal_belongs_to_the_command_of_exec(daemon: Daemon, inside: int) -> None:
    """Ctrl-C reaches the command once, which decides what happens; exec waits for it."""
    command = [sys.executable, "-m", "nsbroker", "exec", f"pid:{inside}", "--", sys.executable, "-c", REPORTER]
    with Terminal(command, {**os.environ, "NSBROKER_ADDRESS": daemon.address}) as terminal:
        terminal.wait_for(b"ready\r\n")
        terminal.type(b"\x03")
        assert (terminal.wait(), terminal.shown.split()) == (5, [b"ready", b"^CSIGINT"])


# It reads only after it was continued: the shell waits until exec has stopped, and the command could still read what is typed then.
# The terminal shows what is typed, too, so the words that the test waits for do not stand here as a whole.
_STOPPABLE = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCONT])
os.write(1, b"rea" b"dy\\n")
signal.sigwait([signal.SIGCONT])
os.write(1, b"contin" b"ued\\n")
print("got", sys.stdin.readline())
sys.exit(7)
"""


@pytest.mark.root
def test_a_shell_can_stop_exec_and_continue_it(daemon: Daemon, inside: int) -> None:
    command = [sys.executable, "-m", "nsbroker", "exec", f"pid:{inside}", "--", sys.executable, "-c", _STOPPABLE]
    environment = {**os.environ, "NSBROKER_ADDRESS": daemon.address, "LC_ALL": "C", "PS1": "prompt> "}
    with Terminal(["bash", "--norc", "--noediting", "-i"], environment) as terminal:
        terminal.wait_for(b"prompt>")
        terminal.type(shlex.join(command).encode() + b"\n")
        terminal.wait_for(b"ready")
        terminal.type(b"\x1a")
        terminal.wait_for(b"Stopped")
        terminal.wait_for(b"prompt>")
        terminal.type(b"fg\n")
        terminal.wait_for(b"continued")
        terminal.type(b"hello\n")
        terminal.wait_for(b"got hello")
        terminal.wait_for(b"prompt>")
        terminal.type(b"echo code=$?\n")
        terminal.wait_for(b"code=7")
        terminal.type(b"exit\n")
        assert terminal.wait() == 0


def signals_of(*command: str, address: str) -> dict[str, int]:
    """Return the masks of signals that /proc shows for a command that `nsbroker COMMAND --` runs, by their names in proc(5)."""
    done = run_command(*command, "--", "grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status", address=address)
    assert (done.returncode, done.stderr) == (0, "")
    return {name: int(mask, 16) for name, mask in (line.split(":") for line in done.stdout.splitlines())}


_IGNORED_BY_PYTHON = 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)


@pytest.mark.parametrize("command", ["exec", "open"])
def test_commands_do_not_ignore_what_python_ignores(daemon: Daemon, command: str) -> None:
    """A shell cannot undo it, and a program whose output goes to `head` would not end."""
    assert not signals_of(command, "self", address=daemon.address)["SigIgn"] & _IGNORED_BY_PYTHON


@pytest.mark.root
def test_a_child_of_exec_ignores_and_blocks_nothing_more(daemon: Daemon, inside: int) -> None:
    masks = signals_of("exec", f"pid:{inside}", address=daemon.address)
    assert masks["SigBlk"] == 0
    assert not masks["SigIgn"] & _IGNORED_BY_PYTHON


def test_a_command_that_cannot_be_run_changes_no_signals() -> None:
    before = signal.getsignal(signal.SIGPIPE), signal.getsignal(signal.SIGXFSZ)
    with pytest.raises(CommandFailed, match="cannot run '/nowhere'"):
        execute(["/nowhere"], {})
    assert (signal.getsignal(signal.SIGPIPE), signal.getsignal(signal.SIGXFSZ)) == before


@pytest.mark.root
def test_exec_enters_the_users_own_user_namespace_without_privilege(daemon: Daemon) -> None:
    drop = f"setpriv --reuid={ALICE} --regid={ALICE} --clear-groups unshare --user --map-root-user --net".split()
    with subprocess.Popen([*drop, "sh", "-c", "echo; exec sleep 600"], stdout=subprocess.PIPE, text=True) as rootless:
        assert rootless.stdout
        rootless.stdout.readline()
        done = run_command("exec", f"pid:{rootless.pid}", "--", "readlink", "/proc/self/ns/net", uid=ALICE, address=daemon.address)
        assert done.stdout == os.readlink(f"/proc/{rootless.pid}/ns/net") + "\n", done.stderr
        rootless.kill()


@pytest.mark.root
def test_exec_says_what_the_kernel_requires_when_it_refuses(daemon: Daemon) -> None:
    with Sleeper("--net", uid=ALICE) as sleeper:
        line = one_line(run_command("exec", f"pid:{sleeper.pid}", "--", "true", uid=ALICE, address=daemon.address), 1)
    assert "CAP_SYS_ADMIN" in line
    assert "nsbroker open" in line
