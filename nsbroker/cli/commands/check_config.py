"""`nsbroker check-config`."""

import argparse

import msgspec

from nsbroker.cli import arguments, terminal
from nsbroker.cli.output import add_json, print_json, print_table

HELP = """\
Check the configuration, and show its rules.

If the configuration is wrong, one line names the file and the key, and the exit code is 1.  Warnings are printed on standard
error."""
EXAMPLE = "nsbroker check-config --config ./nsbroker.toml"

_COLUMNS = ("who", "targets", "namespaces", "sockets", "marks", "devices", "files", "interfaces", "create", "hold")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    arguments.add_config(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Load the configuration as the daemon does, and print the table of rules or the JSON."""
    with arguments.daemon_installed():
        from nsbroker.daemon import configuration
        from nsbroker.daemon.policy import rules
    settings = configuration.load(options.config)
    for warning in rules.Policy(settings).warnings:
        terminal.print_message(f"warning: {warning}")
    if options.json:
        print_json(
            {
                "files": list(map(str, settings.files)),
                "allow": [rule.text for rule in settings.rules],
                "limits": msgspec.to_builtins(settings.limits),
            }
        )
        return 0
    rows = [[text.name, *(_join_words(getattr(text, column)) for column in _COLUMNS), origin] for text, origin in settings.rules]
    print_table(["RULE", *(column.upper() for column in _COLUMNS), "WRITTEN-IN"], rows)
    return 0


def _join_words(words: list[str] | str) -> str:
    return words if isinstance(words, str) else " ".join(words) or "-"
