"""Where Wireshark looks for capture programs, and the program that is put there: see extcap(4).

Wireshark starts every executable file in a personal and in a system folder, with options of its own and from any current folder.
So the program is a script of two lines that names this installation of nsbroker.
"""

import argparse
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nsbroker
from nsbroker.cli import service_program
from nsbroker.errors import CommandFailed

NAME = "nsbroker"
"""The name of the program in the folder."""

_MARK = "# Written by `nsbroker install-extcap`.  `nsbroker remove-extcap` removes it."
# Since Wireshark 4.2.
_PERSONAL = Path(".local/lib/wireshark/extcap")
_SYSTEM = ("usr/lib/*/wireshark/extcap", "usr/lib/wireshark/extcap", "usr/lib64/wireshark/extcap", "usr/libexec/wireshark/extcap")
_SECONDS = 60
_ADVICE = ": --system needs root"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --user and --system."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--user", action="store_false", dest="system", default=False, help="only for yourself (default)")
    which.add_argument("--system", action="store_true", help="for all users; needs root")


def install(*, system: bool) -> Path:
    """Write the program into the folder for all users, or for this user, and return its path.

    Raises CommandFailed: when Wireshark could not start this installation, when a file of somebody else is there, and for all users
    also when anybody but root could change this installation or when the caller is not root.
    """
    program = service_program.find()
    if system:
        for path in (Path(program[0]), Path(sys.executable), Path(nsbroker.__file__)):
            service_program.check_owners(path)
    _check_starts(program)
    place = _find_folder(system=system) / NAME
    _check_ours(place)
    try:
        place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        # Wireshark may read the folder at any time, and must not start half of the program.
        new = place.with_name(f".{NAME}.new")
        new.write_text(f'#!/bin/sh\n{_MARK}\nexec {shlex.join(program)} extcap "$@"\n')
        new.chmod(0o755)
        new.replace(place)
    except OSError as error:
        raise CommandFailed(f"cannot write {place}: {error.strerror}{_ADVICE if system else ''}") from error
    return place


def remove(*, system: bool) -> Path | None:
    """Remove what `install` wrote, and return its path; None when there is nothing.  Raises CommandFailed."""
    place = _find_folder(system=system) / NAME
    if not place.exists():
        return None
    _check_ours(place)
    try:
        place.unlink()
    except OSError as error:
        raise CommandFailed(f"cannot remove {place}: {error.strerror}{_ADVICE if system else ''}") from error
    return place


def _find_folder(*, system: bool) -> Path:
    """Return the folder that tshark names, or without tshark where it is usually.  Raises CommandFailed."""
    named = _ask_tshark()
    # Before Wireshark 4.2 there is one line, for the folder of the system.  The personal one is beside the configuration.
    if system and (folder := named.get("Global Extcap path") or named.get("Extcap path")):
        return Path(folder)
    if not system and (folder := named.get("Personal Extcap path")):
        return Path(folder)
    if not system and "Extcap path" in named and (folder := named.get("Personal configuration")):
        return Path(folder) / "extcap"
    if not system:
        return Path.home() / _PERSONAL
    folders = [folder for pattern in _SYSTEM for folder in sorted(Path("/").glob(pattern))]
    if not folders:
        raise CommandFailed("no folder of Wireshark for capture programs was found: install wireshark or tshark first")
    return folders[0]


def _ask_tshark() -> dict[str, str]:
    """Return the folders of Wireshark, by their titles; none without tshark."""
    if shutil.which("tshark") is None:
        return {}
    done = _run(["tshark", "-G", "folders"])
    return dict(re.findall(r"^(.+?):\s+(/.*)$", done.stdout, re.MULTILINE))


def _check_starts(program: Sequence[str]) -> None:
    """Check that the program starts from any current folder, as Wireshark starts it."""
    done = _run([*program, "--version"], cwd="/")
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2][-200:]
        raise CommandFailed(
            f"Wireshark could not start {shlex.join(program)}: {reason}; install nsbroker with pip, and call it from there"
        )


def _run(command: Sequence[str], cwd: str | None = None) -> "subprocess.CompletedProcess[str]":
    """Run a program, and return what it printed.  Raises CommandFailed when it takes longer than _SECONDS."""
    try:
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=_SECONDS)  # noqa: S603 - the user's own
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(
            f"`{shlex.join(command)}` did not end within {_SECONDS} seconds: run it yourself to see why, and then try again"
        ) from error


def _check_ours(place: Path) -> None:
    if place.exists() and _MARK not in place.read_text(errors="replace"):
        raise CommandFailed(f"{place} was not written by `nsbroker install-extcap`: move it away first")
