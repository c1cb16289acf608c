"""Arguments that several commands share."""

import argparse
import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

from nsbroker.errors import ConfigurationError
from nsbroker.model.identity import NamespaceType
from nsbroker.model.target import Target


def add_target(parser: argparse.ArgumentParser) -> None:
    """TARGET."""
    parser.add_argument("target", metavar="TARGET", help="where the namespaces are: pid:4711, name:blue, ... (see nsbroker --help)")


def add_name(parser: argparse.ArgumentParser) -> None:
    """NAME."""
    parser.add_argument("name", metavar="NAME", help="what the broker holds it as: letters, digits, '_', '.', '-'")


def add_types(parser: argparse.ArgumentParser, default: str) -> None:
    """--type, any number of times."""
    kinds = ", ".join(NamespaceType)
    parser.add_argument(
        "--type", metavar="T", action="append", dest="types", help=f"a namespace type: {kinds} (default: {default})"
    )


def set_usage_of_command(parser: argparse.ArgumentParser) -> None:
    """-- COMMAND.  `main` cuts it off before anything is parsed."""
    parser.usage = f"{parser.prog} TARGET [--type T]... [--timeout SECONDS] -- COMMAND [ARGUMENT]..."


def add_config(parser: argparse.ArgumentParser) -> None:
    """--config."""
    parser.add_argument(
        "--config", metavar="PATH", type=Path, help="a configuration file, or a folder with nsbroker.toml, instead of the system's"
    )


@contextlib.contextmanager
def daemon_installed() -> Iterator[None]:
    """Within this the daemon is imported, whose dependencies are an extra.  Raises ConfigurationError with what to install."""
    try:
        yield
    except ImportError as error:
        raise ConfigurationError(f"the daemon needs the package {error.name}: pip install 'nsbroker[daemon]'") from error


def seconds(text: str) -> float:
    """A duration on the command line.  Raises ArgumentTypeError."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is no number of seconds greater than 0")
    return number


def name(options: argparse.Namespace) -> str:
    """The name, seen to be one.  Raises InvalidTarget."""
    return Target.named(options.name).value


def target(options: argparse.Namespace) -> Target:
    """The parsed target.  Raises InvalidTarget."""
    return Target.parse(options.target)


def types(options: argparse.Namespace) -> list[NamespaceType] | None:
    """The parsed types, each once; None when none was given.  Raises InvalidType."""
    return None if options.types is None else list(dict.fromkeys(map(NamespaceType.parse, options.types)))
