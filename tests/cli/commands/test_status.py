"""`nsbroker status`."""

import json

from tests.world import Daemon, run_command


def test_status(daemon: Daemon) -> None:
    assert json.loads(run_command("status", "--json", address=daemon.address).stdout)["rules"] == 2
    assert "+peer_pidfd" in run_command("status", address=daemon.address).stdout
