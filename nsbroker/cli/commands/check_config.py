"""`nsbroker check`."""

import argparse

import msgspec

from nsbroker.cli import arguments, terminal
from nsbroker.cli.output import add_json, print_json, print_table

HELP = """\
Check the configuration, and show the rules that it amounts to.

Exit code 1 and one line that names file and key when it is wrong; warnings go to standard error."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    arguments.add_config(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Read the configuration as the daemon would."""
    with arguments.daemon_installed():
        from nsbroker.daemon import configuration
        from nsbroker.daemon.policy import rules
    settings = configuration.load(options.config)
    for warning in rules.Policy(settings).warnings:
        terminal.say(f"warning: {warning}")
    if options.json:
        print_json(
            {
                "files": list(map(str, settings.files)),
                "allow": [rule.text for rule in settings.rules],
                "limits": msgspec.to_builtins(settings.limits),
            }
        )
        return 0
    rows = [
        [text.name, *map(_words, (text.who, text.targets, text.namespaces, text.sockets, text.devices)), origin]
        for text, origin in settings.rules
    ]
    print_table(["RULE", "WHO", "TARGETS", "NAMESPACES", "SOCKETS", "DEVICES", "FILE"], rows)
    return 0


def _words(words: list[str] | str) -> str:
    return words if isinstance(words, str) else " ".join(words) or "-"
