"""The pages of the commands, from the parsers of their command lines."""

import argparse
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

from docs.generate import prose
from nsbroker.cli.main import COMMANDS as NAMES
from nsbroker.cli.main import GROUPS

__all__ = ["GROUPS", "NAMES", "command", "groups", "parser", "summary"]

_WIDTH = 1000  # No usage is so long that argparse would break it.


def parser(name: str) -> argparse.ArgumentParser:
    """Return the parser of the command line of one command, as `nsbroker` builds it."""
    built = argparse.ArgumentParser(
        prog=f"nsbroker {name}", add_help=False, formatter_class=lambda prog: argparse.HelpFormatter(prog, width=_WIDTH)
    )
    _module(name).configure(built)
    return built


def summary(name: str) -> str:
    """Return what the command does, in a few words without a capital letter and a period: the rest of a line in a list."""
    text = str(_module(name).HELP).partition("\n")[0].replace("`", "")
    return text[0].lower() + text[1:].rstrip(".")


def command(name: str) -> str:
    """Return the reference of one command: its synopsis, description, arguments and example."""
    module, built = _module(name), parser(name)
    usage = " ".join(built.format_usage().removeprefix("usage: ").split())
    parts = [f"## Synopsis\n\n```text\n{usage}\n```", f"## Description\n\n{prose.document(module.HELP)}"]
    if arguments := list(_arguments(built)):
        parts.append("## Arguments and options\n\n" + "\n\n".join(arguments))
    return "\n\n".join([*parts, f"## Example\n\n```text\n{module.EXAMPLE}\n```"])


def groups() -> str:
    """Return the list of all commands in their groups, with links to their pages."""
    parts = []
    for title, names in GROUPS.items():
        rows = "\n".join(f"- [nsbroker-{name}(1)](commands/{name}.md): {prose.line(summary(name))}" for name in names)
        parts.append(f"**{title.capitalize()}**\n\n{rows}")
    return "\n\n".join(parts)


def _arguments(built: argparse.ArgumentParser) -> Iterator[str]:
    for action in built._actions:
        if action.metavar is not None:
            value = str(action.metavar)
        elif action.choices is not None:
            value = "|".join(map(str, action.choices))
        else:
            value = action.dest.upper()
        takes_value = action.nargs != 0
        term = " ".join([", ".join(action.option_strings), *([value] if takes_value else [])]).strip()
        yield f"`{term}`\n: {prose.sentence((action.help or '').replace('%%', '%'))}"


def _module(name: str) -> ModuleType:
    return import_module(f"nsbroker.cli.commands.{name.replace('-', '_')}")
