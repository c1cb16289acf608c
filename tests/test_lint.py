"""Check types and style of the whole tree."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.world import SLOWNESS

pytestmark = pytest.mark.once

CHECKOUT = Path(__file__).parent.parent


@pytest.mark.root  # once is enough, and its cache is written into the checkout
@pytest.mark.timeout(300 * SLOWNESS)
@pytest.mark.parametrize(
    "tool", [["mypy"], ["ruff", "check", "--no-cache"], ["ruff", "format", "--check", "--no-cache"]], ids=" ".join
)
def test_the_tree_passes(tool: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *tool], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_exception_to_a_rule_in_the_code_carries_its_reason() -> None:
    for path in [*CHECKOUT.glob("nsbroker/**/*.py"), *CHECKOUT.glob("tests/**/*.py")]:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for mark in ("# no" + "qa", "# type" + ": ignore"):
                _, found, rest = line.partition(mark)
                assert not found or " - " in rest or "  # " in rest, f"{path}:{number}: no reason given"
