"""`nsbroker cat`."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.cli.conftest import one_line
from tests.cli.made_up import run_on_terminal
from tests.world import ALICE, BOB, Daemon, Sleeper, run_command

pytestmark = pytest.mark.root

TEXT = b"127.0.0.1\tlocalhost\n\xff\x1b[31m \xc2\x9b2J\n"


@pytest.fixture
def hosts(sleeper: Sleeper) -> str:
    """The target of a process whose hosts file has TEXT."""
    inside = ["nsenter", "--mount", "--target", str(sleeper.pid)]
    subprocess.run([*inside, "mount", "-t", "tmpfs", "-o", "mode=755", "etc", "/etc"], check=True)
    with open(f"/proc/{sleeper.pid}/root/etc/hosts", "wb") as file:
        file.write(TEXT)
    return f"pid:{sleeper.pid}"


@pytest.fixture
def sleeper() -> Iterator[Sleeper]:
    """A process with mounts of its own."""
    with Sleeper(unshare="--net --mount --propagation private") as process:
        yield process


def test_a_file_is_printed_as_it_is(daemon: Daemon, target: str, hosts: str) -> None:
    command = ["setpriv", f"--reuid={ALICE}", "--clear-groups"]
    environment = {**os.environ, "NSBROKER_ADDRESS": daemon.address}
    done = subprocess.run(
        [*command, sys.executable, "-m", "nsbroker", "cat", hosts, "hosts"], capture_output=True, env=environment, check=True
    )
    assert (done.stdout, done.stderr) == (TEXT, b"")


def test_on_a_terminal_nothing_can_control_it(daemon: Daemon, hosts: str) -> None:
    shown = run_on_terminal("cat", hosts, "hosts", address=daemon.address, columns=80)
    assert shown == "127.0.0.1\tlocalhost\n\\xff\\x1b[31m \\x9b2J\n"


def test_statistics_of_the_network_are_printed(daemon: Daemon, target: str) -> None:
    assert "lo:" in run_command("cat", target, "net/dev", uid=ALICE, address=daemon.address).stdout


def test_what_no_rule_allows_is_one_line(daemon: Daemon, target: str) -> None:
    for uid, name in ((ALICE, "net/tcp"), (BOB, "net/dev")):
        line = one_line(run_command("cat", target, name, uid=uid, address=daemon.address), 1)
        assert f"open the file {name} of {target}: permission denied" in line


def test_another_name_is_wrong_usage(daemon: Daemon, target: str) -> None:
    assert "passwd" in one_line(run_command("cat", target, "passwd", address=daemon.address), 2)
