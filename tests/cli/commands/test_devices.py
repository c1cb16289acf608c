"""`nsbroker devices`."""

import json

import pytest

from tests.cli.conftest import one_line
from tests.world import ALICE, Daemon, Sleeper, run_command

pytestmark = pytest.mark.root


def test_devices_lists_those_that_a_rule_allows(daemon: Daemon, target: str) -> None:
    table = run_command("devices", target, uid=ALICE, address=daemon.address).stdout.splitlines()
    assert [line.split() for line in table] == [["NAME", "MAJOR", "MINOR"], ["null", "1", "3"], ["zero", "1", "5"]]
    devices = json.loads(run_command("devices", target, "--json", uid=ALICE, address=daemon.address).stdout)
    assert devices == [{"name": "null", "major": 1, "minor": 3}, {"name": "zero", "major": 1, "minor": 5}]


def test_root_sees_more_of_them(daemon: Daemon, target: str) -> None:
    devices = json.loads(run_command("devices", target, "--json", address=daemon.address).stdout)
    assert {"null", "zero", "full", "urandom"} <= {device["name"] for device in devices}


def test_all_lists_every_name_with_its_kind_for_those_who_may_open_every_device(daemon: Daemon, target: str) -> None:
    names = json.loads(run_command("devices", target, "--all", "--json", address=daemon.address).stdout)
    kinds = {one["name"]: one["kind"] for one in names}
    assert kinds["null"] == "device"
    assert {"directory", "device"} <= set(kinds.values())
    lines = run_command("devices", target, "--all", address=daemon.address).stdout.splitlines()
    assert lines[0].split() == ["NAME", "KIND"]
    assert ["null", "device"] in [line.split() for line in lines]
    table = run_command("devices", target, "--all", uid=ALICE, address=daemon.address).stdout.splitlines()
    assert [line.split() for line in table] == [["NAME", "KIND"], ["null", "device"], ["zero", "device"]]


def test_devices_of_what_no_rule_allows_are_refused(daemon: Daemon, sleeper: Sleeper) -> None:
    line = one_line(run_command("devices", f"pid:{sleeper.pid}", uid=ALICE, address=daemon.address), 1)
    assert "permission denied" in line
    assert f"the devices of pid:{sleeper.pid}" in line


def test_a_namespace_without_process_has_no_devices(daemon: Daemon, blue: None) -> None:
    assert "has no files and devices" in one_line(run_command("devices", "name:blue", address=daemon.address), 1)
