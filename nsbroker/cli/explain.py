"""Show what the policy says to opening a target, type by type, without opening it.

Exit code 1 when opening all of what was asked for would be refused.
"""

import argparse

from nsbroker.cli import arguments
from nsbroker.cli.output import add_json, print_json, print_table
from nsbroker.client.blocking import connect


def configure(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    arguments.add_target(parser)
    arguments.add_types(parser, "all that the target has")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Ask, print."""
    target, types = arguments.target(options), arguments.types(options)
    with connect() as broker:
        answer = broker.explain(target, types)
    if options.json:
        print_json(answer)
    else:
        rows = [[verdict.type, "allowed" if verdict.allowed else "denied", verdict.rule or "-"] for verdict in answer.verdicts]
        print_table(["TYPE", "VERDICT", "RULE"], rows)
    return 0 if answer.allowed else 1
