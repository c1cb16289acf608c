"""The installed units, used in the way an administrator uses them."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from nsbroker.cli.service_program import format_exec_start
from tests.world import SLOWNESS, eventually

ADDRESS = "unix:/run/nsbroker/io.nsbroker.Broker"
DROP_INS = Path("/etc/systemd/system/nsbroker.service.d")
CONFIG = Path("/etc/nsbroker")
TEST_POLICY = CONFIG / "nsbroker.d/test.toml"


class Unit:
    """nsbroker.socket and nsbroker.service; `program` is the command."""

    def __init__(self, program: str) -> None:
        self.program = program

    @staticmethod
    def run(*command: str, code: int = 0) -> str:
        """Run a command that must exit with `code`, and return its output."""
        done = subprocess.run(command, capture_output=True, text=True, timeout=60 * SLOWNESS)
        assert done.returncode == code, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def set(self, **settings: str) -> None:
        """Override settings of the service, and restart it if it runs."""
        DROP_INS.mkdir(parents=True, exist_ok=True)
        lines = "".join(
            f"{name}=\n{name}={value}\n" if name == "ExecStart" else f"{name}={value}\n" for name, value in settings.items()
        )
        (DROP_INS / "test.conf").write_text(f"[Service]\n{lines}")
        self.run("systemctl", "daemon-reload")
        self.run("systemctl", "try-restart", "nsbroker.service")

    def start_always(self) -> None:
        """Remove the limits on how often the service may start."""
        for unit, settings in (
            ("service", "[Unit]\nStartLimitIntervalSec=0\n"),
            ("socket", "[Socket]\nTriggerLimitIntervalSec=0\n"),
        ):
            folder = DROP_INS.with_name(f"nsbroker.{unit}.d")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "always.conf").write_text(settings)
        self.run("systemctl", "daemon-reload")

    def serve(self, *options: str) -> None:
        """Override the options of `nsbroker serve`."""
        self.set(ExecStart=format_exec_start((self.program, "serve", *options)))

    def configure(self, text: str) -> None:
        """Write a drop-in of the configuration."""
        TEST_POLICY.parent.mkdir(parents=True, exist_ok=True)
        TEST_POLICY.write_text(text)

    def clear(self) -> None:
        """Remove the files that `set`, `start_always` and `configure` wrote."""
        for folder in (DROP_INS, DROP_INS.with_name("nsbroker.socket.d")):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(CONFIG, ignore_errors=True)
        self.run("systemctl", "daemon-reload")

    def prop(self, name: str) -> str:
        """Return a property of the service."""
        return self.run("systemctl", "show", "--property", name, "--value", "nsbroker.service")

    @property
    def pid(self) -> int:
        """The service's main process, 0 when it does not run."""
        return int(self.prop("MainPID"))

    def wait_for(self, state: str) -> None:
        """Wait until the service's ActiveState is `state`."""
        eventually(lambda: self.prop("ActiveState") == state, f"nsbroker.service is {state}")

    def entries(self, *matches: str) -> list[dict[str, Any]]:
        """Return the journal entries of nsbroker that match."""
        self.run("journalctl", "--sync")
        lines = self.run("journalctl", "-t", "nsbroker", "-o", "json", "--no-pager", *matches, code=0)
        return [json.loads(line) for line in lines.splitlines()]
