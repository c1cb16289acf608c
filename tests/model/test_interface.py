"""What can be the name of an interface."""

import pytest

from nsbroker.model.interface import is_interface_name

VALID = ["eth0", "a", "lab0.100", "veth-web_1", "a" * 15, "é" * 7, "...", "alle", "tap@0"]
INVALID = [
    "",
    "a" * 16,
    "é" * 8,
    "a/b",
    "a:b",
    "tap%d",
    "a b",
    "a\tb",
    "a\nb",
    "a\0b",
    "a\u00a0b",
    "a\u2028b",
    "\ud800",
    ".",
    "..",
    "all",
    "default",
]


@pytest.mark.parametrize("name", VALID)
def test_a_name_that_the_kernel_takes_for_one_interface_is_valid(name: str) -> None:
    assert is_interface_name(name)


@pytest.mark.parametrize("name", INVALID, ids=ascii)
def test_a_name_that_means_something_else_or_nothing_is_invalid(name: str) -> None:
    assert not is_interface_name(name)
