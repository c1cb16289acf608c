"""The unit for a user's own systemd, `examples/forward-web.service`, in a real user manager."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbroker.linux.process import Process
from nsbroker.namespace import Namespace
from tests.docs.console import user_alice
from tests.systemd.unit import Unit
from tests.test_examples import EXAMPLES, Metrics, serving
from tests.world import ALICE, PATIENCE, Sleeper, eventually

pytestmark = pytest.mark.root
FILE = EXAMPLES / "forward-web.service"
RUNTIME = Path(f"/run/user/{ALICE}")
UNITS = RUNTIME / "systemd/user"
VARIABLES = (f"XDG_RUNTIME_DIR={RUNTIME}", f"HOME={RUNTIME}")


def as_alice(*command: str) -> str:
    """Run a program as alice, with her systemd; it must succeed.  Returns its output."""
    drop = ["setpriv", f"--reuid={ALICE}", f"--regid={ALICE}", "--clear-groups", "env", *VARIABLES]
    return Unit.run(*drop, *command)


@pytest.fixture
def web(unit: Unit) -> Iterator[None]:
    """The container web with a server inside, and a rule that lets alice have sockets there.

    It is a process in a network of its own, and the state file that crun would write; tests/engines has real containers.
    """
    place = Path("/run/crun/web")
    with Sleeper() as process, Namespace.from_pid(process.pid, "net") as network:
        with Process.open(process.pid) as pinned:
            state = f'{{"pid": {process.pid}, "process-start-time": {pinned.start_time()}}}'
        place.mkdir(parents=True)
        (place / "status").write_text(state)
        network.call(subprocess.run, ["ip", "link", "set", "lo", "up"])
        unit.configure(f'[[allow]]\nname = "alice"\nwho = "user:{ALICE}"\ntargets = "crun:web"\nsockets = "inet:stream"\n')
        unit.run("systemctl", "try-reload-or-restart", "nsbroker.service")
        with serving(network, 8080, Metrics):
            yield
    shutil.rmtree(place)


@pytest.fixture
def manager() -> Iterator[None]:
    """The systemd of alice, in whose places for units is the file.  logind would start it when she logs in."""
    program = Path("/usr/local/bin/nsbroker")
    with user_alice():
        UNITS.mkdir(parents=True)
        shutil.copy(FILE, UNITS)
        drop_ins = UNITS / f"{FILE.name}.d"
        drop_ins.mkdir()
        # The usual pause between two starts would only make the test slower.
        (drop_ins / "test.conf").write_text("[Service]\nRestartSec=100ms\n")
        for path in (RUNTIME, *RUNTIME.rglob("*")):
            os.chown(path, ALICE, ALICE)
        program.symlink_to(Path(sys.executable).with_name("nsbroker"))
        settings = [
            f"--uid={ALICE}",
            "--property=Delegate=yes",
            "--property=Type=notify",
            *(f"--setenv={one}" for one in VARIABLES),
        ]
        Unit.run("systemd-run", "--quiet", "--collect", "--unit=alice-manager", *settings, "/usr/lib/systemd/systemd", "--user")
        try:
            yield
        finally:
            Unit.run("systemctl", "stop", "alice-manager.service")
            program.unlink()
            shutil.rmtree(RUNTIME)


def answer() -> bytes:
    """Fetch a page at the local port; nothing if nobody listens there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", 8081), PATIENCE) as sock:
        sock.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        return sock.makefile("rb").read()
    return b""


def test_a_user_unit_keeps_a_forwarded_port_up(web: None, manager: None) -> None:
    as_alice("systemd-analyze", "--user", "--man=no", "verify", str(UNITS / FILE.name))
    as_alice("systemctl", "--user", "start", FILE.name)
    eventually(lambda: b"asked_for /metrics" in answer(), "the port leads into the container")

    def main_pid() -> int:
        return int(as_alice("systemctl", "--user", "show", "--property=MainPID", "--value", FILE.name))

    first = main_pid()
    os.kill(first, 9)
    eventually(lambda: main_pid() not in (0, first), "systemd starts it again")
    eventually(lambda: b"asked_for /metrics" in answer(), "the port leads into the container again")
    as_alice("systemctl", "--user", "stop", FILE.name)
    assert answer() == b""
    assert as_alice("systemctl", "--user", "show", "--property=Result", "--value", FILE.name) == "success"
