"""The command with which systemd starts the broker.

It names this installation of nsbroker, after a check that root can safely run it, in the syntax of unit files.
"""

import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from nsbroker.cli import arguments
from nsbroker.errors import CommandFailed

_LINKS_MAX = 40
# The unit has PrivateTmp=yes, so the service cannot see files below these.
_HIDDEN = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - named to be refused
# The modules that the broker imports, each with the name of its package for pip where that is another name.
_MODULES = {
    "nsbroker": "",
    "msgspec": "",
    "trio": "",
    "h11": "",
    "jeepney": "",
    "systemd.daemon": "systemd-python",
    "systemd.journal": "systemd-python",
}
_PROBE = """
import importlib, sys
for name in sys.argv[1:]:
    try:
        print(name, importlib.import_module(name).__file__, sep="=")
    except ImportError:
        print(name, "", sep="=")
"""
_NEEDS_NO_QUOTES = re.compile(r"[A-Za-z0-9/._+@:=,~-]+")
_FOR_SHELL = frozenset("\"'\\$")


def find() -> list[str]:
    """Return the command that started this installation of nsbroker, with its full path.  Nothing is checked."""
    called = Path(sys.argv[0])
    if called.name != "__main__.py" and called.is_file() and os.access(called, os.X_OK):
        # Keep the path by which it was called, with its symbolic links: an upgrade may point them to another place.
        folder = called.parent.absolute()
        return [str((folder.resolve() if ".." in folder.parts else folder) / called.name)]
    return [sys.executable, "-m", "nsbroker"]


def command() -> list[str]:
    """Return the command that starts this installation of nsbroker.

    It was checked that systemd can see the installation, that nobody but root can change it, and that no package is missing.
    Raises CommandFailed with what is wrong.
    """
    found = find()
    for path in (Path(found[0]), Path(sys.executable), *_find_modules()):
        check_path(path)
    return found


def format_exec_start(words: Sequence[str]) -> str:
    """Quote a command for ExecStart= (systemd.service(5), systemd.syntax(7)).  Raises CommandFailed when that is impossible."""
    program, *arguments = words
    if _FOR_SHELL.isdisjoint(program):
        # systemd replaces no variables in the path of the program, and this path has no '$' that would need doubling.
        return " ".join(map(_quote, words))
    # systemd does not accept these characters in the path of the program, but it accepts them in an argument.
    return " ".join(['/bin/sh -c \'exec "$$0" "$$@"\'', _quote(program), *map(_quote, arguments)])


def _quote(word: str) -> str:
    if not word.isprintable():
        raise CommandFailed(f"{word!r}: a unit file cannot contain a path with such characters: install nsbroker elsewhere")
    if _NEEDS_NO_QUOTES.fullmatch(word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


def _find_modules() -> list[Path]:
    """Return the files of the modules that the broker imports.

    They are looked up as the service will do it: without the current folder and the environment variables of this shell.
    """
    probe = [sys.executable, "-c", _PROBE, "os", *_MODULES]
    done = subprocess.run(probe, capture_output=True, text=True, check=False, cwd="/", env={"PATH": os.defpath})  # noqa: S603 - ours
    if done.returncode:
        raise CommandFailed(
            f"{sys.executable} does not run without this shell's environment variables: {done.stderr.strip()[-200:]}"
        )
    files = dict(line.split("=", 1) for line in done.stdout.splitlines())
    if not files["nsbroker"]:
        raise CommandFailed(f"{sys.executable} finds nsbroker only in the current folder: {arguments.how_to_install('daemon')}")
    missing = dict.fromkeys(_MODULES[name] or name for name, file in files.items() if not file)
    if missing:
        raise CommandFailed(f"this installation lacks {', '.join(missing)}: {arguments.how_to_install('daemon')}")
    return [Path(file) for file in files.values()]


_ADVICE = "install nsbroker where only root can write, such as /opt/nsbroker"


def check_path(path: Path) -> None:
    """Raise CommandFailed when the service could not see `path`, or when anybody but root could change or replace it."""
    for step in _walk(path):
        if step in _HIDDEN:
            raise CommandFailed(f"{path} is below {step}, which the service cannot see (PrivateTmp=): install nsbroker elsewhere")
        _check_owner(step)


def check_owners(path: Path) -> None:
    """Raise CommandFailed when anybody but root could change or replace `path`."""
    for step in _walk(path):
        _check_owner(step)


def _check_owner(step: Path) -> None:
    facts = step.stat()
    if facts.st_uid != 0:
        raise CommandFailed(f"{step} belongs to uid {facts.st_uid}, who could make root run any program: {_ADVICE}")
    if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        who = "everyone" if facts.st_mode & stat.S_IWOTH else f"the group {facts.st_gid}"
        raise CommandFailed(f"{step} can be written by {who}, who could make root run any program: {_ADVICE}")


def _walk(path: Path) -> Iterator[Path]:
    """Yield each folder that the kernel passes on the way to `path`, also behind symbolic links, and then the file itself."""
    left = [*reversed(path.parts[1:])]
    at = Path("/")
    links = 0
    yield at
    while left:
        part = left.pop()
        if part == "..":
            at = at.parent
            continue
        try:
            facts = (at / part).lstat()
            if not stat.S_ISLNK(facts.st_mode):
                at /= part
                yield at
                continue
            target = (at / part).readlink()
        except OSError as error:
            raise CommandFailed(f"{at / part}: {error.strerror}") from error
        links += 1
        if links > _LINKS_MAX:
            raise CommandFailed(f"{path}: too many symbolic links")
        if target.is_absolute():
            at = Path("/")
        left += [part for part in reversed(target.parts) if part != "/"]
