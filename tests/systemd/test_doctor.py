"""`nsbroker doctor` in a booted systemd: started by the socket unit, with units of another installation, and failed."""

import json
from typing import Any

from tests.systemd.test_installing import SERVICE
from tests.systemd.unit import Unit


def rows(unit: Unit, code: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(unit.run(unit.program, "doctor", "--json", code=code))
    return found


def texts(found: list[dict[str, Any]], verdict: str) -> list[str]:
    return [f"{row['text']} {row['advice']}" for row in found if row["verdict"] == verdict]


def test_the_doctor_finds_units_that_are_well_changed_and_failed(unit: Unit) -> None:
    found = rows(unit, 0)
    well = texts(found, "ok")
    assert any("systemd listens (nsbroker.socket)" in text for text in well), found
    assert any("are what this installation would write" in text for text in well), found
    assert any("nsbroker.socket is active" in text for text in well), found
    assert not [row for row in found if row["subject"] == "units" and row["verdict"] != "ok"]

    SERVICE.write_text(SERVICE.read_text() + "# changed\n")
    warnings = texts(rows(unit, 0), "warn")
    assert any(f"not what this installation would write: {SERVICE}" in text for text in warnings)
    assert any("systemctl daemon-reload" in text for text in warnings)
    unit.run(unit.program, "install-units")

    unit.configure("[[alow]]\n")
    failures = texts(rows(unit, 1), "fail")
    assert any("unknown key 'alow'" in text for text in failures)
    unit.clear()

    unit.run("systemctl", "stop", "nsbroker.socket", "nsbroker.service")
    found = rows(unit, 1)
    assert any("no broker at" in text for text in texts(found, "fail"))
    assert any("systemctl enable --now nsbroker.socket" in text for text in texts(found, "warn"))
