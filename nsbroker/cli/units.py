"""systemd's units of the broker, put where systemd looks for what an administrator installed by hand, and taken away.

Distributions ship the files of systemd/ in their own packages and need none of this.
"""

import os
import secrets
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from nsbroker.cli import service_program
from nsbroker.errors import CommandFailed

PREFIX = Path("/usr/local/lib")
# What `systemctl enable` makes: it leads to a file that is ours, and without it nowhere.
_ENABLED = Path("/etc/systemd/system/sockets.target.wants/nsbroker.socket")
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
    program = service_program.written(service_program.command())
    for source, place in unit_files():
        place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _write(place, source.read_text().replace(_PROGRAM, program))
    _run("systemd-sysusers", "nsbroker.conf")
    _run("systemd-tmpfiles", "--create", "nsbroker.conf")
    _run("journalctl", "--update-catalog")
    _run("systemctl", "daemon-reload")


def remove() -> list[Path]:
    """Stop the broker and take away what `install` wrote: these files, none when nothing was there.

    It goes by the places alone, so that it works when the rest of nsbroker is gone.  Raises CommandFailed, OSError.
    """
    places = [place for place in (*(PREFIX / place for place in _PLACES.values()), _ENABLED) if os.path.lexists(place)]
    if not places:
        return []
    _run("systemctl", "disable", "--now", "nsbroker.socket", "nsbroker.service", must=False)
    for place in places:
        place.unlink(missing_ok=True)
        for folder in place.parents:
            # Only what nobody else has anything in.
            if folder == PREFIX or PREFIX not in folder.parents or not folder.exists() or any(folder.iterdir()):
                break
            folder.rmdir()
    _run("groupdel", "nsbroker", must=False)
    shutil.rmtree("/run/nsbroker", ignore_errors=True)
    _run("journalctl", "--update-catalog")
    _run("systemctl", "daemon-reload")
    # What failed for good is forgotten, too.
    _run("systemctl", "reset-failed", "nsbroker.socket", "nsbroker.service", must=False)
    return places


def _write(place: Path, text: str) -> None:
    """Replace the file as a whole: who reads it meanwhile reads the old one, and a link in its place leads nowhere."""
    new = place.with_name(f".{place.name}.{secrets.token_hex(8)}")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        with open(fd, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(text)
        new.replace(place)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def _run(*command: str, must: bool = True) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - programs of systemd's own
    except OSError as error:
        raise CommandFailed(f"{command[0]}: {error.strerror}") from error
    if must and done.returncode:
        raise CommandFailed(f"{' '.join(command)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
