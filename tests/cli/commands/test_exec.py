"""`nsbroker exec`."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import one_line
from tests.world import ALICE, Daemon, Sleeper, run_command


@pytest.mark.root
def test_exec_enters_namespaces_that_it_is_not_in(daemon: Daemon, sleeper: Sleeper) -> None:
    done = run_command(
        "exec", f"pid:{sleeper.pid}", "--", "readlink", "/proc/self/ns/net", "/proc/self/ns/uts", address=daemon.address
    )
    assert done.stdout.split() == [f"net:[{sleeper.inode('net')}]", f"uts:[{sleeper.inode('uts')}]"]


@pytest.mark.root
def test_exec_enters_a_pid_namespace_with_a_child_and_returns_its_exit_code(daemon: Daemon) -> None:
    with Sleeper("--pid --fork --kill-child --mount-proc") as parent:
        child = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().strip()
        done = run_command("exec", f"pid:{child}", "--", "sh", "-c", "echo $$; exit 7", address=daemon.address)
    assert (done.stdout, done.returncode) == ("2\n", 7)


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
