"""`nsbroker grants`."""

import argparse

from nsbroker.cli import arguments
from nsbroker.cli.output import add_json, print_json, print_table

HELP = "List the grants that are in force, and when each one ends."
EXAMPLE = "nsbroker grants"

_KEYS = ("namespaces", "sockets", "marks", "devices", "files", "interfaces", "create", "hold")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Print the table or the JSON."""
    with arguments.daemon_installed():
        from nsbroker.cli import grant_files
    grants = [rule.text for rule in grant_files.list_grants()]
    if options.json:
        print_json(grants)
        return 0
    rows = []
    for text in grants:
        allowed = [f"{key}: {' '.join(words)}" for key in _KEYS if (words := getattr(text, key))]
        until = text.until.astimezone().isoformat(" ", "seconds") if text.until else "-"
        rows.append([text.name, " ".join(text.who), " ".join(text.targets), ", ".join(allowed), until])
    print_table(["GRANT", "WHO", "TARGETS", "ALLOWS", "UNTIL"], rows)
    return 0
