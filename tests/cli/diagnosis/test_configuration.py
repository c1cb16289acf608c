"""What is said of the system's configuration, and of a broker that has another one."""

import time
from pathlib import Path

import pytest

from nsbroker.cli.diagnosis import configuration
from nsbroker.cli.diagnosis.row import Row, Verdict
from nsbroker.daemon.configuration import files, load
from nsbroker.protocol.messages import Status

RULE = '[[allow]]\nname = "lab"\nwho = "everyone"\ntargets = ["name:lab"]\nnamespaces = ["net"]\n'


@pytest.fixture
def drop_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A drop-in of the system's configuration, below a folder that stands for /etc/nsbroker."""
    monkeypatch.setattr(files, "DIRECTORIES", (*files.DIRECTORIES[:1], tmp_path))
    (tmp_path / "nsbroker.d").mkdir()
    path = tmp_path / "nsbroker.d/lab.toml"
    path.write_text(RULE)
    return path


def status(rules: int, loaded: float) -> Status:
    return Status("1", {}, rules, loaded, False)


def bad(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row.verdict is not Verdict.OK]


def rules_now() -> int:
    return len(load().rules)


def test_a_valid_configuration_that_the_broker_has_is_well(drop_in: Path) -> None:
    [row] = configuration.check(status(rules_now(), time.time() + 60))
    assert row.verdict is Verdict.OK
    assert str(drop_in) in row.text
    assert bad(configuration.check(None)) == []


def test_a_broken_file_is_a_failure_that_names_it(drop_in: Path) -> None:
    drop_in.write_text(RULE.replace("namespaces", "namespace"))
    [row] = configuration.check(status(3, 0))
    assert row.verdict is Verdict.FAIL
    assert f"{drop_in}:5: rule 'lab': unknown key" in row.text
    assert "still has the 3 rules" in row.text
    assert "systemctl reload nsbroker" in row.advice


def test_a_file_that_is_newer_than_what_the_broker_read_is_a_warning(drop_in: Path) -> None:
    [row] = bad(configuration.check(status(rules_now(), time.time() - 3600)))
    assert row.verdict is Verdict.WARN
    assert f"{drop_in} changed after the broker read" in row.text
    assert "systemctl reload nsbroker" in row.advice


def test_a_broker_with_another_number_of_rules_is_a_warning(drop_in: Path) -> None:
    [row] = bad(configuration.check(status(rules_now() + 4, time.time() + 60)))
    assert "--config" in row.advice


def test_warnings_of_the_policy_are_shown(drop_in: Path) -> None:
    drop_in.write_text(RULE.replace('"everyone"', '["user:nobody-has-this-name"]'))
    rows = bad(configuration.check(None))
    assert [row.verdict for row in rows] == [Verdict.WARN]
    assert "nobody-has-this-name" in rows[0].text


def test_a_broker_that_refuses_every_call_fails(drop_in: Path) -> None:
    assert drop_in.exists()
    told = Status("1", {}, 0, time.time() + 60, False, configuration_fault="x.toml:1: broken")
    [row] = bad(configuration.check(told))
    assert row.verdict is Verdict.FAIL
    assert "x.toml:1: broken" in row.text
