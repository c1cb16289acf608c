"""Arguments that several commands share."""

import argparse

from nsbroker.identity import NamespaceType
from nsbroker.target import Target


def add_target(parser: argparse.ArgumentParser) -> None:
    """TARGET."""
    parser.add_argument("target", metavar="TARGET", help="where the namespaces are: pid:4711, name:blue, ... (see nsbroker --help)")


def add_types(parser: argparse.ArgumentParser, default: str) -> None:
    """--type, any number of times."""
    kinds = ", ".join(NamespaceType)
    parser.add_argument(
        "--type", metavar="T", action="append", dest="types", help=f"a namespace type: {kinds} (default: {default})"
    )


def add_command(parser: argparse.ArgumentParser) -> None:
    """-- COMMAND."""
    parser.add_argument("command", metavar="COMMAND", nargs="+", help="what to run, after `--`")


def target(options: argparse.Namespace) -> Target:
    """The parsed target.  Raises InvalidTarget."""
    return Target.parse(options.target)


def types(options: argparse.Namespace) -> list[NamespaceType] | None:
    """The parsed types, each once; None when none was given.  Raises InvalidType."""
    return None if options.types is None else list(dict.fromkeys(map(NamespaceType.parse, options.types)))
