"""Install and remove the systemd units of the broker, and its man pages.

They go below /usr/local, where systemd and man(1) look for what an administrator installed by hand.  Distributions ship these files
in their own packages and do not need this module.
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

PREFIX = Path("/usr/local")
PACKAGED = Path("/usr/lib/systemd/system/nsbroker.socket")
"""The socket unit, where a distribution's package puts it."""
# The symbolic link that `systemctl enable` makes.  Without our unit file it would dangle, so it is removed with it.
_ENABLED = Path("/etc/systemd/system/sockets.target.wants/nsbroker.socket")
_PROGRAM = "@NSBROKER@"
_CHECKOUT = Path(__file__).parent.parent.parent
_PLACES = {
    "nsbroker.socket": "lib/systemd/system/nsbroker.socket",
    "nsbroker.service": "lib/systemd/system/nsbroker.service",
    "nsbroker.sysusers": "lib/sysusers.d/nsbroker.conf",
    "nsbroker.tmpfiles": "lib/tmpfiles.d/nsbroker.conf",
    "nsbroker.catalog": "lib/systemd/catalog/nsbroker.catalog",
}


# The folders below PREFIX that other programs use, too, or that systems have anyway.
_SHARED = tuple(PREFIX / folder for folder in ("lib", "share", "share/man"))
_PAGES = "nsbroker*.[1-8]"


class _File(NamedTuple):
    """A file to install: `source` is copied to `place`."""

    source: Path
    place: Path


def contents() -> Iterator[tuple[Path, str]]:
    """Yield the place and the text of each file to install.  Raises CommandFailed, OSError."""
    program = service_program.format_exec_start(service_program.command())
    for source, place in _files():
        yield place, source.read_text(encoding="utf-8").replace(_PROGRAM, program)


def install() -> list[Path]:
    """Write the files, make systemd read them, and return their places.

    Raises CommandFailed, also if anybody but root could change one of the files that are copied, and OSError.
    """
    for source, _ in _files():
        service_program.check_path(source)
    files = list(contents())
    for place, text in files:
        place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _write(place, text)
    _run("systemd-sysusers", "nsbroker.conf")
    _run("systemd-tmpfiles", "--create", "nsbroker.conf")
    _run("journalctl", "--update-catalog")
    _run("systemctl", "daemon-reload")
    # After a service has failed several times within a minute, newer versions of systemd start it only when that is forgotten.
    _run("systemctl", "reset-failed", "nsbroker.service", must=False)
    return [place for place, _ in files]


def _files() -> Iterator[_File]:
    yield from _unit_files()
    yield from _man_pages()


def _unit_files() -> Iterator[_File]:
    """Yield the files for systemd.  Raises CommandFailed when this installation has none."""
    folder = _CHECKOUT / "systemd" if _is_checkout() else _data() / "systemd"
    for name, place in _PLACES.items():
        if not (folder / name).exists():
            if PACKAGED.exists():
                raise CommandFailed(
                    f"there is nothing to install: the package of nsbroker brought its units, in {PACKAGED.parent}: "
                    "run `systemctl enable --now nsbroker.socket`"
                )
            raise CommandFailed(f"{folder / name}: this installation has no unit files: install nsbroker again with pip")
        yield _File(folder / name, PREFIX / place)


def _man_pages() -> Iterator[_File]:
    """Yield the man pages, if this installation has them; a checkout has those that were built in it."""
    folder = _CHECKOUT / "build/docs/man" if _is_checkout() else _data() / "man"
    for page in sorted(folder.glob(_PAGES)):
        yield _File(page, PREFIX / f"share/man/man{page.suffix[1:]}" / page.name)


def _is_checkout() -> bool:
    return (_CHECKOUT / "systemd/nsbroker.socket").exists()


def _data() -> Path:
    return Path(sysconfig.get_path("data")) / "share/nsbroker"


def remove() -> list[Path]:
    """Stop the broker and remove the files that `install` wrote.  Returns those that were there.

    It looks only for the installed files, so it also works when the unit files of this installation are gone.  Where a package has
    brought units, these are in force afterwards: the socket stays as it is.  Raises CommandFailed, OSError.
    """
    is_packaged = PACKAGED.exists()
    written = [PREFIX / place for place in _PLACES.values()]
    units = [place for place in (*written, *(() if is_packaged else (_ENABLED,))) if os.path.lexists(place)]
    places = [*units, *sorted(PREFIX.glob(f"share/man/man*/{_PAGES}"))]
    if not places:
        return []
    if not is_packaged:
        _run("systemctl", "disable", "--now", "nsbroker.socket", "nsbroker.service", must=False)
    for place in places:
        place.unlink(missing_ok=True)
        for folder in place.parents:
            # Remove a folder only when it is empty.
            if folder in _SHARED or PREFIX not in folder.parents or not folder.exists() or any(folder.iterdir()):
                break
            folder.rmdir()
    if not is_packaged:
        _run("groupdel", "nsbroker", must=False)
        shutil.rmtree("/run/nsbroker", ignore_errors=True)
    _run("journalctl", "--update-catalog")
    _run("systemctl", "daemon-reload")
    if is_packaged:
        if os.path.lexists(_ENABLED):
            # The link leads to the unit file that is gone.
            _run("systemctl", "reenable", "nsbroker.socket", must=False)
        _run("systemctl", "try-restart", "nsbroker.service", must=False)
    else:
        # Otherwise `systemctl` would go on listing units that failed before they were removed.
        _run("systemctl", "reset-failed", "nsbroker.socket", "nsbroker.service", must=False)
    return places


def _write(place: Path, text: str) -> None:
    """Replace the file in one step: readers see the old file or the new one.  A symbolic link there is replaced, not followed."""
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
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - fixed commands
    except OSError as error:
        raise CommandFailed(f"{command[0]}: {error.strerror}") from error
    if must and done.returncode:
        raise CommandFailed(f"{' '.join(command)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
