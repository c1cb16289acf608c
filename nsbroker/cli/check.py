"""Check the configuration, and show the rules that it amounts to.

Exit code 1 and one line that names file and key when it is wrong; warnings go to standard error.
"""

import argparse
import sys
from pathlib import Path

import msgspec

from nsbroker.cli.output import add_json, print_json, print_table
from nsbroker.errors import ConfigurationError


def configure(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument(
        "--config", metavar="PATH", type=Path, help="a configuration file, or a folder with nsbroker.toml, instead of the system's"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Read the configuration as the daemon would."""
    try:
        from nsbroker.daemon import configuration, policy  # the daemon's dependencies are an extra
    except ImportError as error:
        raise ConfigurationError(f"the daemon needs the package {error.name}: pip install 'nsbroker[daemon]'") from error
    settings = configuration.load(options.config)
    for warning in policy.Policy(settings).warnings:
        print(f"nsbroker: warning: {warning}", file=sys.stderr)
    if options.json:
        print_json(
            {"files": list(map(str, settings.files)), "allow": settings.rules, "limits": msgspec.to_builtins(settings.limits)}
        )
        return 0
    rows = [
        [rule.name, *map(_words, (rule.who, rule.targets, rule.namespaces, rule.sockets, rule.devices)), rule.origin]
        for rule in settings.rules
    ]
    print_table(["RULE", "WHO", "TARGETS", "NAMESPACES", "SOCKETS", "DEVICES", "FILE"], rows)
    return 0


def _words(words: list[str] | str) -> str:
    return words if isinstance(words, str) else " ".join(words) or "-"
