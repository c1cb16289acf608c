"""Arguments that several commands share: what they are parsed into, and what is refused."""

import argparse

import pytest

from nsbroker.cli import arguments
from nsbroker.errors import ConfigurationError, InvalidTarget, InvalidType


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    arguments.add_name(parser)
    arguments.add_types(parser, "net")
    return parser.parse_args(words)


@pytest.mark.parametrize(("text", "number"), [("1", 1.0), ("0.25", 0.25), ("1e-3", 0.001)])
def test_a_duration_is_a_number_of_seconds(text: str, number: float) -> None:
    assert arguments.seconds(text) == number


@pytest.mark.parametrize("text", ["0", "-1", "inf", "-inf", "nan", "1e999", "", "soon", "1 s", "x" * 100_000])
def test_a_duration_that_is_not_finite_and_above_zero_is_refused_in_a_short_line(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a number of seconds greater than 0") as refused:
        arguments.seconds(text)
    assert len(str(refused.value)) < 200


def test_types_are_kept_in_their_order_and_once_each() -> None:
    assert arguments.types(parsed("x")) is None
    words = [word for ns_type in ("uts", "net", "uts", "ipc", "net") for word in ("--type", ns_type)]
    assert arguments.types(parsed("x", *words)) == ["uts", "net", "ipc"]
    with pytest.raises(InvalidType):
        arguments.types(parsed("x", "--type", "net", "--type", "network"))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "a\nb"])
def test_a_name_that_could_be_a_path_or_several_words_is_refused(name: str) -> None:
    assert arguments.name(parsed("lab-1_x.y")) == "lab-1_x.y"
    with pytest.raises(InvalidTarget):
        arguments.name(parsed(name))


def test_a_missing_package_of_the_daemon_is_named_with_what_to_install() -> None:
    expected = r"needs the package nothing_of_that_name: run in a checkout of nsbroker: .* -m pip install '\.\[daemon\]'"
    with pytest.raises(ConfigurationError, match=expected), arguments.daemon_installed():
        import nothing_of_that_name  # type: ignore[import-not-found]  # noqa: F401 - it is missing
