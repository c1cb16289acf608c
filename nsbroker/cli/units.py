"""systemd's units of the broker, put where systemd looks for what an administrator installed by hand, and taken away.

Distributions ship the files of systemd/ in their own packages and need none of this.
"""

import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from nsbroker.errors import CommandFailed

PREFIX = Path("/usr/local/lib")
_PROGRAM = "@NSBROKER@"
_PLACES = {
    "nsbroker.socket": "systemd/system/nsbroker.socket",
    "nsbroker.service": "systemd/system/nsbroker.service",
    "nsbroker.sysusers": "sysusers.d/nsbroker.conf",
    "nsbroker.tmpfiles": "tmpfiles.d/nsbroker.conf",
    "nsbroker.catalog": "systemd/catalog/nsbroker.catalog",
}


class UnitFile(NamedTuple):
    """A file to install: from where, to where."""

    source: Path
    place: Path


def unit_files() -> Iterator[UnitFile]:
    """All of them.  Raises CommandFailed when this installation has none."""
    checkout = Path(__file__).parent.parent.parent / "systemd"
    shared = Path(sysconfig.get_path("data")) / "share/nsbroker/systemd"
    folder = checkout if (checkout / "nsbroker.socket").exists() else shared
    for name, place in _PLACES.items():
        if not (folder / name).exists():
            raise CommandFailed(f"{folder / name}: this installation came without its unit files")
        yield UnitFile(folder / name, PREFIX / place)


def install() -> None:
    """Write the files, and have systemd read them.  Raises CommandFailed, OSError."""
    # As it was called, not where links lead to: an upgrade may replace what is behind them.
    program = Path(sys.argv[0]).absolute()
    for source, place in unit_files():
        place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        place.write_text(source.read_text().replace(_PROGRAM, str(program)))
        place.chmod(0o644)
    _run("systemd-sysusers", "nsbroker.conf")
    _run("systemd-tmpfiles", "--create", "nsbroker.conf")
    _run("journalctl", "--update-catalog")
    _run("systemctl", "daemon-reload")


def remove() -> None:
    """Stop the broker and take away what `install` wrote.  Raises CommandFailed, OSError."""
    _run("systemctl", "disable", "--now", "nsbroker.socket", "nsbroker.service", must=False)
    for _, place in unit_files():
        place.unlink(missing_ok=True)
        for folder in place.parents:
            # Only what nobody else has anything in.
            if folder == PREFIX or any(folder.iterdir()):
                break
            folder.rmdir()
    _run("groupdel", "nsbroker", must=False)
    shutil.rmtree("/run/nsbroker", ignore_errors=True)
    _run("journalctl", "--update-catalog")
    _run("systemctl", "daemon-reload")


def _run(*command: str, must: bool = True) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - programs of systemd's own
    except OSError as error:
        raise CommandFailed(f"{command[0]}: {error.strerror}") from error
    if must and done.returncode:
        raise CommandFailed(f"{' '.join(command)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
