"""Arguments that several commands share."""

import argparse
import contextlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path

from nsbroker.errors import ConfigurationError
from nsbroker.model.identity import NamespaceType
from nsbroker.model.target import Target


def add_target(parser: argparse.ArgumentParser) -> None:
    """Add TARGET."""
    parser.add_argument(
        "target", metavar="TARGET", help="use this target: pid:4711, name:blue, container:web, ... (see nsbroker --help)"
    )


def add_name(parser: argparse.ArgumentParser) -> None:
    """Add NAME, a name for namespaces that the broker will hold."""
    parser.add_argument(
        "name", metavar="NAME", help="use this name for the held namespaces: letters, digits, '_', '.', '-', at most 200"
    )


def add_types(parser: argparse.ArgumentParser, default: str) -> None:
    """Add --type, which can be given several times."""
    all_types = ", ".join(NamespaceType)
    parser.add_argument(
        "--type",
        metavar="T",
        action="append",
        dest="types",
        help=f"choose a namespace type; can be repeated: {all_types} (default: {default})",
    )


def set_usage_of_command(parser: argparse.ArgumentParser, options: str = "[--type T]... [--timeout SECONDS]") -> None:
    """Show `-- COMMAND` in the usage text.  `main` removes that part before argparse sees the command line."""
    parser.usage = f"{parser.prog} TARGET {options} -- COMMAND [ARGUMENT]..."


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add --config."""
    parser.add_argument(
        "--config",
        metavar="PATH",
        type=Path,
        help="read this file, or this folder with nsbroker.toml, instead of the system's configuration",
    )


@contextlib.contextmanager
def installed(what: str, extra: str) -> Iterator[None]:
    """Import within this context what `what` needs.  Raises ConfigurationError, with what to install, when a package is missing.

    These dependencies are the extra `extra` of this package.  Without the extra, pip does not install them.
    """
    try:
        yield
    except ImportError as error:
        raise ConfigurationError(f"{what} needs the package {error.name}: {how_to_install(extra)}") from error


def how_to_install(extra: str) -> str:
    """Return the advice to install the extra `extra` for the Python that runs this.  A checkout is the only source of nsbroker."""
    import shlex  # imported only here, because commands rarely need it

    return f"run in a checkout of nsbroker: {shlex.quote(sys.executable)} -m pip install '.[{extra}]'"


def daemon_installed() -> contextlib.AbstractContextManager[None]:
    """Import the daemon within this context.  Raises as `installed` does."""
    return installed("the daemon", "daemon")


def seconds(text: str) -> float:
    """Parse a duration in seconds, greater than 0 and finite.  Raises ArgumentTypeError."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a number of seconds greater than 0")
    return number


def name(options: argparse.Namespace) -> str:
    """Return NAME after checking its characters.  Raises InvalidTarget."""
    return Target.named(options.name).value


def target(options: argparse.Namespace) -> Target:
    """Parse TARGET.  Raises InvalidTarget."""
    return Target.parse(options.target)


def types(options: argparse.Namespace) -> list[NamespaceType] | None:
    """Parse all --type options, and drop duplicates.  Returns None when none was given.  Raises InvalidType."""
    return None if options.types is None else list(dict.fromkeys(map(NamespaceType.parse, options.types)))
