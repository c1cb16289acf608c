"""The examples run, as their first lines say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nsbroker.linux.process import Process
from nsbroker.target import ENGINES
from tests.engines.real import Crun
from tests.world import Daemon, Sleeper, named_network, run_command

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, EXAMPLES / name, *arguments], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_run_inside(sleeper: Sleeper) -> None:
    assert f"net:[{sleeper.inode('net')}] has the interfaces lo" in run("run_inside.py", str(sleeper.pid))


@pytest.mark.root
def test_pass_socket() -> None:
    assert run("pass_socket.py") == "served by uid 65534 on port 80\n"


def test_compare(sleeper: Sleeper) -> None:
    lines = {line.split()[0]: line.split()[1] for line in run("compare.py", str(os.getpid()), str(sleeper.pid)).splitlines()}
    assert {kind for kind, verdict in lines.items() if verdict == "apart"} == {"ipc", "net", "uts"}
    assert len(lines) == 8


@pytest.mark.root
def test_nsid(daemon: Daemon) -> None:
    with named_network("purple"):
        subprocess.run(["ip", "netns", "set", "purple", "7"], check=True)
        done = run_command("open", "name:purple", "--", sys.executable, str(EXAMPLES / "nsid.py"), address=daemon.address)
    assert "is number 7 here" in done.stdout


@pytest.mark.root
def test_link_statistics(daemon: Daemon, sleeper: Sleeper) -> None:
    with Process.open(sleeper.pid) as process:
        state = f'{{"pid": {sleeper.pid}, "process-start-time": {process.start_time()}}}'
    # What crun writes, for a process that is no container: real ones are in tests/engines.
    (daemon.folder / "crun/web-1").mkdir(parents=True)
    (daemon.folder / "crun/web-1/status").write_text(state)
    engines = "".join(f"{name} = []\n" for name in ENGINES if name != "crun")
    (daemon.config / "nsbroker.d/engines.toml").write_text(f'[engines]\ncrun = ["{daemon.folder}/crun"]\n{engines}')
    daemon.allow("agent", who="everyone", targets=["crun:web-*"], namespaces=["net"])
    environment = {**os.environ, "NSBROKER_ADDRESS": daemon.address}
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    command = [*drop, sys.executable, str(EXAMPLES / "link_statistics.py")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=30)
    assert done.stdout.splitlines()[1].split() == ["crun:web-1", "lo", "0", "0"], done.stderr


def test_the_policy_for_monitoring_is_one(tmp_path: Path) -> None:
    copy = tmp_path / "monitoring.toml"
    copy.write_text((EXAMPLES / "monitoring.toml").read_text())
    checked = run_command("check", "--config", str(copy))
    assert checked.returncode == 0, checked.stderr
    assert "cri:default/*/*" in checked.stdout


@pytest.mark.root
@pytest.mark.skipif(
    bool(Crun.missing()) and os.environ.get("ENGINES") != "all", reason="crun or busybox is missing, and tests install no engine"
)
def test_the_demo_shows_what_it_promises() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "NSBROKER_ADDRESS"}
    done = subprocess.run([EXAMPLES / "demo.sh"], capture_output=True, text=True, check=False, timeout=30, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    for words in (
        "65534 (nobody)",
        "net:[",
        "is number 7 here",
        "crun:web",
        "permission denied",
        "exit code 1",
        '"verdict":"denied"',
        "Cleaned up",
    ):
        assert words in done.stdout + done.stderr
