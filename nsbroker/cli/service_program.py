"""The command by which systemd starts the broker: where this installation is, whether root may run it, and how it is written
in a unit file.
"""

import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from nsbroker.errors import CommandFailed

_LINKS_MAX = 40
# The unit has PrivateTmp=yes: what is below these is not there for the service.
_HIDDEN = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - named to be refused
# What the broker imports, and what pip calls it where that is another name.
_MODULES = {
    "nsbroker": "",
    "msgspec": "",
    "trio": "",
    "httpcore2": "",
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
_PLAIN = re.compile(r"[A-Za-z0-9/._+@:=,~-]+")
_FOR_SHELL = frozenset("\"'\\$")


def command() -> list[str]:
    """What starts this installation of nsbroker.  It was seen to be there for systemd, and to be changed by root alone.

    Raises CommandFailed with what is wrong.
    """
    called = Path(sys.argv[0])
    if called.name != "__main__.py" and called.is_file() and os.access(called, os.X_OK):
        # As it was called, not where links lead to: an upgrade may replace what is behind them.
        folder = called.parent.absolute()
        found = [str((folder.resolve() if ".." in folder.parts else folder) / called.name)]
    else:
        found = [sys.executable, "-m", "nsbroker"]
    for path in (Path(found[0]), Path(sys.executable), *_modules()):
        _check(path)
    return found


def written(words: Sequence[str]) -> str:
    """A command as ExecStart= has it (systemd.service(5), systemd.syntax(7)).  Raises CommandFailed for what cannot be."""
    program, *arguments = words
    if _FOR_SHELL.isdisjoint(program):
        # In the path of the program systemd replaces no variables; these have no '$' to be doubled.
        return " ".join(map(_quoted, words))
    # systemd takes no such characters in a program's path, but in an argument.
    return " ".join(['/bin/sh -c \'exec "$$0" "$$@"\'', _quoted(program), *map(_quoted, arguments)])


def _quoted(word: str) -> str:
    if not word.isprintable():
        raise CommandFailed(f"{word!r}: a unit file has no room for paths with such characters: install nsbroker elsewhere")
    if _PLAIN.fullmatch(word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


def _modules() -> list[Path]:
    """The files of what the broker imports, found as the service will: without this shell's folder and variables."""
    probe = [sys.executable, "-c", _PROBE, "os", *_MODULES]
    done = subprocess.run(probe, capture_output=True, text=True, check=False, cwd="/", env={"PATH": os.defpath})  # noqa: S603 - ours
    if done.returncode:
        raise CommandFailed(f"{sys.executable} does not run without this shell's variables: {done.stderr.strip()[-200:]}")
    said = dict(line.split("=", 1) for line in done.stdout.splitlines())
    if not said["nsbroker"]:
        raise CommandFailed(f"{sys.executable} finds nsbroker in this folder only: install it, pip install 'nsbroker[daemon]'")
    missing = dict.fromkeys(_MODULES[name] or name for name, file in said.items() if not file)
    if missing:
        raise CommandFailed(f"this installation lacks {', '.join(missing)}: pip install 'nsbroker[daemon]'")
    return [Path(file) for file in said.values()]


def _check(path: Path) -> None:
    """Raises CommandFailed when the service could not see `path`, or when anybody but root could put something in its place."""
    for step in _way(path):
        if step in _HIDDEN:
            raise CommandFailed(
                f"{path} is below {step}, of which the service has one of its own (PrivateTmp=): install it elsewhere"
            )
        facts = step.stat()
        if facts.st_uid != 0:
            raise CommandFailed(f"{step} belongs to uid {facts.st_uid}, who could have root run anything: {_ADVICE}")
        if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            who = "everyone" if facts.st_mode & stat.S_IWOTH else f"the group {facts.st_gid}"
            raise CommandFailed(f"{step} can be written by {who}, who could have root run anything: {_ADVICE}")


_ADVICE = "install nsbroker where only root writes, such as /opt/nsbroker"


def _way(path: Path) -> Iterator[Path]:
    """Each folder on the way to `path`, as the kernel goes it, those behind links, too; and in the end the file."""
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
            raise CommandFailed(f"{path}: too many links")
        if target.is_absolute():
            at = Path("/")
        left += [one for one in reversed(target.parts) if one != "/"]
