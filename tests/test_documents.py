"""What the documents name exists: commands, files, errors, limits.  tests/docs runs their programs."""

import re
from pathlib import Path

import msgspec
import pytest

from nsbroker.cli.main import COMMANDS
from nsbroker.daemon.configuration import Limits
from nsbroker.errors import WIRE_ERRORS

pytestmark = pytest.mark.once

CHECKOUT = Path(__file__).parent.parent
DOCUMENTS = [
    *(CHECKOUT / name for name in ("README.md", "SECURITY.md", "ARCHITECTURE.md", "CONTRIBUTING.md")),
    *sorted((CHECKOUT / "docs").rglob("*.md")),
]
GENERATED = {f"{folder}commands/{name}.md" for name in COMMANDS for folder in ("", "../reference/")}
"""The pages that `make docs` writes."""
UNITS = sorted((CHECKOUT / "systemd").iterdir())


@pytest.mark.parametrize("path", [*DOCUMENTS, *UNITS], ids=lambda path: path.name)
def test_every_command_that_is_named_is_one(path: Path) -> None:
    named = set(re.findall(r"`(?:sudo )?nsbroker ([a-z][a-z-]*)", path.read_text()))
    named |= set(re.findall(r"^[$#] (?:sudo )?nsbroker ([a-z][a-z-]*)", path.read_text(), re.MULTILINE))
    assert named <= {*COMMANDS, "ps", "help"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_is_linked_or_named_exists(path: Path) -> None:
    text = path.read_text()
    linked = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    named = re.findall(r"`((?:nsbroker|tests|examples|systemd)/[A-Za-z0-9_./-]+)`", text)
    assert [name for name in linked if not (path.parent / name).exists() and name not in GENERATED] == []
    assert [name for name in named if "NAME" not in name and not (CHECKOUT / name).exists()] == []


def test_every_file_that_the_architecture_says_to_change_exists() -> None:
    table = (CHECKOUT / "ARCHITECTURE.md").read_text().partition("## Where to change what")[2].partition("\n## ")[0]
    named = re.findall(r"`((?:daemon|cli|client|model|protocol|tests|errors)[A-Za-z0-9_./]*)`", table)
    assert len(named) > 20
    assert [name for name in named if not (CHECKOUT / "nsbroker" / name).exists() and not (CHECKOUT / name).exists()] == []


def test_every_error_that_the_security_policy_names_is_one() -> None:
    known = {name.rpartition(".")[2] for name in WIRE_ERRORS}
    for word in re.findall(r"\b((?:[A-Z][a-z]+){2,})\b", (CHECKOUT / "SECURITY.md").read_text()):
        if word.endswith(("Exceeded", "Failed", "Out", "Denied", "Parameter", "Unavailable", "Device")):
            assert word in known | {"OpenDevice"}, word


def test_the_security_policy_lists_every_limit_with_its_default() -> None:
    limits = {name.replace("_", "-"): value for name, value in msgspec.to_builtins(Limits()).items()}
    rows = [line for line in (CHECKOUT / "SECURITY.md").read_text().splitlines() if line.startswith("| `") or ", `" in line]
    for name, value in limits.items():
        [row] = [row for row in rows if f"`{name}`" in row.split("|")[1]]
        assert f"{value:g}" in row.split("|")[2].replace(" ", ""), row
