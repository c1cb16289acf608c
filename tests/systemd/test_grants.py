"""Grants, with the broker as a unit of systemd."""

import json

import pytest

from nsbroker.cli import grant_files
from nsbroker.client.blocking import connect
from nsbroker.errors import PermissionDenied
from tests.systemd.unit import ADDRESS, Unit
from tests.world import ALICE, SLOWNESS, Sleeper, as_user, eventually, run_command


def opens(target: str) -> bool:
    def attempt() -> bool:
        try:
            with connect(ADDRESS) as broker:
                broker.open(target, "net").close()
        except PermissionDenied:
            return False
        return True

    return as_user(ALICE, attempt)


@pytest.mark.parametrize("runs", [True, False], ids=["the service runs", "only the socket listens"])
def test_a_grant_is_in_force_at_once_and_its_end_is_in_the_journal(unit: Unit, sleeper: Sleeper, runs: bool) -> None:
    target = f"pid:{sleeper.pid}"
    if runs:
        assert not opens(target)
    else:
        unit.run("systemctl", "stop", "nsbroker.service")
    done = run_command("grant", f"user:{ALICE}", target, "--namespaces", "net", "--for", f"{4 * SLOWNESS:g}s", address=ADDRESS)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert opens(target)
    [grant] = json.loads(run_command("grants", "--json").stdout)
    eventually(lambda: not opens(target), "the grant ends")

    def is_recorded() -> bool:
        entry = unit.run("journalctl", "-t", "nsbroker", "-o", "json", "-n", "50", "NSBROKER_VERDICT=expired")
        return f'"NSBROKER_RULE":"{grant["name"]}"' in entry.replace(" ", "")

    eventually(is_recorded, "the end is in the journal")
    assert json.loads(run_command("grants", "--json").stdout) == []
    for path in grant_files.DIRECTORY.glob("*"):
        path.unlink()
