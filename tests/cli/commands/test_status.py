"""`nsbroker status`."""

import json

from tests.cli.conftest import one_line
from tests.world import Daemon, run_command


def test_status(daemon: Daemon) -> None:
    assert json.loads(run_command("status", "--json", address=daemon.address).stdout)["rules"] == 2
    assert "+peer_pidfd" in run_command("status", address=daemon.address).stdout


def test_status_as_metrics(daemon: Daemon) -> None:
    done = run_command("status", "--prometheus", address=daemon.address)
    lines = done.stdout.splitlines()
    assert "nsbroker_broker_rules 2.0" in lines
    assert 'nsbroker_broker_method_calls_total{method="GetStatus"} 1.0' in lines
    assert 'nsbroker_broker_waiting_call_seconds_bucket{le="+Inf"} 0.0' in lines
    one_line(run_command("status", "--prometheus", "--json", address=daemon.address), 2)
