"""`nsbroker check-config`."""

import argparse

import msgspec

from nsbroker.cli import arguments, terminal
from nsbroker.cli.output import add_json, print_json, print_table

HELP = """\
Check the configuration, and show its rules and files.

If the configuration is wrong, each mistake is one line on standard error with the file, the line and the key, and the exit code is
1.  Warnings are printed on standard error, too: what fits nobody or nothing, and files that are not read."""
EXAMPLE = "nsbroker check-config --config ./nsbroker.toml"

_COLUMNS = ("who", "targets", "namespaces", "sockets", "marks", "devices", "files", "interfaces", "create", "hold")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    arguments.add_config(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Load the configuration as the daemon does, and print the tables of rules and files, or the JSON."""
    with arguments.daemon_installed():
        from nsbroker.daemon.policy import rules
    settings, policy = rules.load(options.config)
    for warning in policy.warnings:
        terminal.print_message(f"warning: {warning}")
    if options.json:
        print_json(
            {
                "files": list(map(str, settings.files)),
                "notRead": [{"file": str(path), "reason": reason} for path, reason in settings.unread],
                "allow": [rule.text for rule in settings.rules],
                "limits": msgspec.to_builtins(settings.limits),
                "warnings": policy.warnings,
            }
        )
        return 0
    rows = [
        [rule.text.name, *(" ".join(getattr(rule.text, column)) or "-" for column in _COLUMNS), rule.origin]
        for rule in settings.rules
    ]
    print_table(["RULE", *(column.upper() for column in _COLUMNS), "WRITTEN-IN"], rows)
    print()
    files = [*((path, "read") for path in settings.files), *((path, f"not read: {reason}") for path, reason in settings.unread)]
    print_table(["FILE", "STATE"], files)
    return 0
