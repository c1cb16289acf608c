"""What is said of unit files.  What systemd itself says of them is tested in a booted systemd (tests/systemd/test_doctor.py)."""

from pathlib import Path

import pytest

from nsbroker.cli import service_program, units
from nsbroker.cli.diagnosis import units as diagnosis
from nsbroker.cli.diagnosis.row import Verdict
from nsbroker.errors import CommandFailed


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The socket unit of an installation below a folder that stands for /usr/local/lib, by a command that systemd could run."""
    monkeypatch.setattr(units, "PREFIX", tmp_path)
    monkeypatch.setattr(service_program, "command", lambda: ["/opt/nsbroker/bin/nsbroker"])
    for place, text in units.contents():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return tmp_path / "lib/systemd/system/nsbroker.socket"


def test_files_as_this_installation_writes_them_are_well(installed: Path) -> None:
    [row] = diagnosis.check_files(installed)
    assert row.verdict is Verdict.OK


def test_a_changed_and_a_missing_file_are_named(installed: Path) -> None:
    service = installed.with_name("nsbroker.service")
    service.write_text(service.read_text() + "\n# changed\n")
    installed.unlink()
    [row] = diagnosis.check_files(installed)
    assert row.verdict is Verdict.WARN
    assert f"{installed}, {service}" in row.text
    assert "nsbroker install-units && systemctl try-restart nsbroker.service" in row.advice


def test_units_of_a_package_are_not_compared() -> None:
    [row] = diagnosis.check_files(Path("/usr/lib/systemd/system/nsbroker.socket"))
    assert row.verdict is Verdict.OK
    assert "/usr/lib/systemd/system/nsbroker.socket" in row.text


def test_an_installation_that_would_be_refused_is_a_warning(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> list[str]:
        raise CommandFailed("/home/alice/nsbroker belongs to uid 1000")

    monkeypatch.setattr(service_program, "command", refuse)
    [row] = diagnosis.check_files(installed)
    assert row.verdict is Verdict.WARN
    assert "belongs to uid 1000" in row.text


@pytest.mark.parametrize(
    ("socket", "service", "verdict", "says"),
    [
        ({"ActiveState": "active", "UnitFileState": "enabled"}, {"ActiveState": "inactive"}, Verdict.OK, "is active"),
        ({"ActiveState": "failed"}, {"ActiveState": "failed"}, Verdict.FAIL, "could not be started"),
        ({"ActiveState": "active"}, {"ActiveState": "failed"}, Verdict.FAIL, "could not be started"),
        ({"ActiveState": "inactive"}, {"ActiveState": "inactive"}, Verdict.WARN, "nsbroker.socket is inactive"),
        ({"ActiveState": "active", "UnitFileState": "disabled"}, {"ActiveState": "active"}, Verdict.WARN, "is not enabled"),
    ],
)
def test_the_states_of_the_units(socket: dict[str, str], service: dict[str, str], verdict: Verdict, says: str) -> None:
    [row] = diagnosis._check_states(socket, service)
    assert row.verdict is verdict
    assert says in row.text
    assert bool(row.advice) == (verdict is not Verdict.OK)


def test_units_that_systemd_has_to_read_again_are_a_warning() -> None:
    first, _ = diagnosis._check_states({"ActiveState": "active", "NeedDaemonReload": "yes"}, {"ActiveState": "active"})
    assert "systemctl daemon-reload" in first.advice
