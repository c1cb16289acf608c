"""Whether systemd has the broker's units, whether they are those of this installation, and how they are."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

from nsbroker.cli import units
from nsbroker.cli.diagnosis.row import Row, Verdict
from nsbroker.errors import CommandFailed

_SUBJECT = "units"
_SYSTEMD = Path("/run/systemd/system")
_SOCKET = "nsbroker.socket"
_SERVICE = "nsbroker.service"
_PROPERTIES = "Id,LoadState,ActiveState,UnitFileState,FragmentPath,NeedDaemonReload"
_TIMEOUT = 10.0


def check() -> list[Row]:
    """Return rows about nsbroker.socket and nsbroker.service."""
    if not _SYSTEMD.is_dir():
        return [Row(Verdict.OK, _SUBJECT, "systemd does not run here, so nothing but `nsbroker serve` starts the broker")]
    try:
        found = _show()
    except CommandFailed as error:
        return [Row(Verdict.WARN, _SUBJECT, str(error))]
    socket, service = found.get(_SOCKET, {}), found.get(_SERVICE, {})
    if socket.get("LoadState") != "loaded":
        text = f"systemd has no {_SOCKET}, so it does not start the broker"
        return [Row(Verdict.WARN, _SUBJECT, text, "as root, run `nsbroker install-units`")]
    return [*check_files(Path(socket.get("FragmentPath", ""))), *_check_states(socket, service)]


def _show() -> Mapping[str, Mapping[str, str]]:
    """Ask systemd for the properties of both units, by their names.  Raises CommandFailed."""
    command = ["systemctl", "show", "--property", _PROPERTIES, _SOCKET, _SERVICE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT)  # noqa: S603 - a fixed command
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CommandFailed(f"systemd cannot be asked about the units: {error}") from error
    if done.returncode:
        raise CommandFailed(f"systemd cannot be asked about the units: {done.stderr.strip() or done.returncode}")
    blocks = (dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in done.stdout.split("\n\n"))
    return {block["Id"]: block for block in blocks if "Id" in block}


def check_files(fragment: Path) -> list[Row]:
    """Compare the installed files with those of this installation; `fragment` is the file of the socket unit that systemd uses."""
    if units.PREFIX not in fragment.parents:
        return [Row(Verdict.OK, _SUBJECT, f"systemd uses {fragment}, which `nsbroker install-units` did not write")]
    try:
        different = [str(place) for place, text in units.contents() if not _has(place, text)]
    except CommandFailed as error:
        return [Row(Verdict.WARN, _SUBJECT, f"`nsbroker install-units` would refuse this installation: {error}")]
    if different:
        text = f"not what this installation would write: {', '.join(different)}"
        advice = "if this is the installation that shall run, run as root `nsbroker install-units && systemctl try-restart "
        return [Row(Verdict.WARN, _SUBJECT, text, f"{advice}{_SERVICE}`")]
    return [Row(Verdict.OK, _SUBJECT, f"those below {units.PREFIX} are what this installation would write")]


def _has(place: Path, text: str) -> bool:
    try:
        return place.read_text() == text
    except (OSError, UnicodeDecodeError):
        return False


def _check_states(socket: Mapping[str, str], service: Mapping[str, str]) -> list[Row]:
    rows = []
    if "yes" in (socket.get("NeedDaemonReload"), service.get("NeedDaemonReload")):
        text = "systemd has not read the unit files as they are now"
        rows.append(Row(Verdict.WARN, _SUBJECT, text, "as root, run `systemctl daemon-reload`"))
    if "failed" in (socket.get("ActiveState"), service.get("ActiveState")):
        again = f"systemctl reset-failed {_SERVICE}; systemctl restart {_SOCKET}"
        advice = f"`journalctl -u {_SERVICE}` says why; mend it, then run `{again}`"
        rows.append(Row(Verdict.FAIL, _SUBJECT, "the broker could not be started by systemd", advice))
    elif socket.get("ActiveState") != "active":
        text = f"{_SOCKET} is {socket.get('ActiveState')}, so systemd does not start the broker"
        rows.append(Row(Verdict.WARN, _SUBJECT, text, f"as root, run `systemctl enable --now {_SOCKET}`"))
    elif socket.get("UnitFileState") == "disabled":
        text = f"{_SOCKET} is not enabled, so it will be gone after the next boot"
        rows.append(Row(Verdict.WARN, _SUBJECT, text, f"as root, run `systemctl enable {_SOCKET}`"))
    else:
        rows.append(Row(Verdict.OK, _SUBJECT, f"{_SOCKET} is active, {_SERVICE} is {service.get('ActiveState')}"))
    return rows
