"""What a command does not use, it does not load, so that it starts fast."""

import json
import os
import subprocess
import sys

import pytest

from tests.world import Daemon

pytestmark = pytest.mark.once

_PROGRAM = """
import json, sys
from nsbroker.cli.main import main
code = main(sys.argv[1:])
print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)
"""
_HEAVY = {"asyncio", "trio", "systemd", "ssl", "logging", "subprocess", "email", "difflib", "tomllib"}


def loaded(*arguments: str, address: str = "unix:/run/nowhere") -> set[str]:
    """Return the modules that a command has loaded at its end."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *arguments],
        capture_output=True, text=True, check=True, env={**os.environ, "NSBROKER_ADDRESS": address},
    )  # fmt: skip
    code, modules = json.loads(done.stderr)
    assert code == 0, done
    return set(modules)


def test_the_version_loads_no_client() -> None:
    modules = loaded("--version")
    assert not modules & (_HEAVY | {"msgspec", "socket"})
    assert {name for name in modules if name.startswith("nsbroker.")} == {
        "nsbroker.cli", "nsbroker.cli.main", "nsbroker.cli.terminal", "nsbroker.errors", "nsbroker.model", "nsbroker.model.text",
        "nsbroker.version",
    }  # fmt: skip


def test_show_loads_the_blocking_client_alone(daemon: Daemon) -> None:
    modules = loaded("show", "self", address=daemon.address)
    assert "nsbroker.client.blocking" in modules
    assert not modules & _HEAVY
    rooms = {name.split(".")[1] for name in modules if name.startswith("nsbroker.")}
    assert not rooms & {"daemon", "via", "conduit"}
    assert not modules & {"nsbroker.client.async_broker", "nsbroker.client.async_calls", "nsbroker.client.async_methods"}
    assert {name for name in modules if name.startswith("nsbroker.cli.commands.")} == {"nsbroker.cli.commands.show"}


def test_what_wireshark_asks_for_each_interface_loads_no_client() -> None:
    for question in ("--extcap-dlts", "--extcap-config"):
        modules = loaded("extcap", question, "--extcap-interface", "docker:web")
        assert not modules & (_HEAVY | {"nsbroker.client", "mmap"})
