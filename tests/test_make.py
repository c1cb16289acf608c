"""The Makefile says in its first line what is missing, before it installs anything."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.via.conftest import need
from tests.world import ALICE

pytestmark = [pytest.mark.root, pytest.mark.once]

CHECKOUT = Path(__file__).parent.parent


def make(*arguments: str, uid: int = 0) -> tuple[int, list[str]]:
    """Run make in the checkout, and return its exit status and what it printed."""
    command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", need("make"), *arguments]
    environment = {"PATH": os.environ["PATH"], "HOME": "/home/alice"}
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout.splitlines()


def test_without_a_target_make_lists_the_targets() -> None:
    code, lines = make()
    assert code == 0
    assert lines[0].startswith("make  ")
    named = {line.split()[1] for line in lines if line.startswith("make ") and not line.startswith("make  ")}
    targets = {
        line.partition(":")[0]
        for line in (CHECKOUT / "Makefile").read_text().splitlines()
        if line[:1].islower() and ":" in line and ":=" not in line and "%" not in line
    }
    assert named == targets - {"help"}


@pytest.mark.parametrize("arguments", [["demo"], ["bench"], ["test", "ENGINES=all"]], ids=" ".join)
def test_what_requires_root_says_so_first(arguments: list[str]) -> None:
    code, [line] = make(*arguments, uid=ALICE)
    assert code == 2
    assert f"{arguments[-1] if len(arguments) > 1 else f'make {arguments[0]}'} requires root" in line


def test_sources_that_cannot_be_written_are_named_first_with_what_to_do() -> None:
    code, lines = make("check", "VENV=/run/venv", uid=ALICE)
    assert code == 2
    assert "the folder /run/venv cannot be written" in lines[0]
    assert lines[0].endswith("make VENV=/home/alice/venv BUILD=/home/alice/build ...")


def test_a_python_that_is_too_old_or_missing_is_named(tmp_path: Path) -> None:
    old = tmp_path / "python"
    # No older Python can be had here: this one says that it is old, as an old one would.
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2"; exit 1\n')
    old.chmod(0o755)
    code, lines = make("check", f"VENV={tmp_path}/venv", f"PYTHON={old}")
    assert code == 2
    assert "Python 3.9.2 is too old, nsbroker needs 3.11 or later" in lines[0]
    code, lines = make("check", f"VENV={tmp_path}/venv", "PYTHON=/nowhere/python3")
    assert "there is no /nowhere/python3" in lines[0]
