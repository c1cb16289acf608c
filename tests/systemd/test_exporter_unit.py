"""The unit of the exporter, as the examples have it."""

import http.client
from pathlib import Path

from nsbroker.cli.service_program import format_exec_start
from tests.exporter_process import Scrape
from tests.systemd.unit import Unit
from tests.world import eventually, named_network

_EXAMPLES = Path(__file__).parent.parent.parent / "examples"
_UNIT = Path("/etc/systemd/system/nsbroker-exporter.service")


def scrape() -> Scrape | None:
    """Return what it serves, None while it does not listen."""
    connection = http.client.HTTPConnection("127.0.0.1", 10753)
    try:
        connection.request("GET", "/metrics")
        return Scrape(connection.getresponse().read().decode())
    except ConnectionRefusedError:
        return None
    finally:
        connection.close()


def has_numbers() -> bool:
    found = scrape()
    return found is not None and found.value("tcp_connection_states", container="lab", state="listen") == 0


def test_the_hardened_unit_serves_the_numbers_of_a_network_with_its_rule(unit: Unit) -> None:
    unit.configure((_EXAMPLES / "exporter.toml").read_text())
    text = (_EXAMPLES / _UNIT.name).read_text().replace("/usr/local/bin/nsbroker", format_exec_start([unit.program]))
    # The checkout can be in a home folder.
    _UNIT.write_text(text.replace("ProtectHome=yes", "ProtectHome=read-only"))
    unit.run("systemctl", "daemon-reload")
    try:
        with named_network("lab"):
            unit.run("systemctl", "start", _UNIT.name)
            eventually(has_numbers, "the exporter has the numbers of the network")
            assert unit.run("systemctl", "show", "--property", "User", "--value", _UNIT.name) != "root"
            exposure = unit.run("systemd-analyze", "security", "--no-pager", _UNIT.name).splitlines()[-1]
            assert float(exposure.split(": ")[1].split()[0]) <= 2.5, exposure
    finally:
        unit.run("systemctl", "stop", _UNIT.name)
        _UNIT.unlink()
        unit.run("systemctl", "daemon-reload")
