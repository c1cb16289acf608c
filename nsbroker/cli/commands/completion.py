"""`nsbroker completion`."""

import argparse
from importlib import import_module

from nsbroker.cli.completion import command_line, targets
from nsbroker.errors import InvalidTarget

HELP = """\
Print a script with which a shell completes the commands, options and targets of nsbroker.

For bash, put `source <(nsbroker completion bash)` into ~/.bashrc; or, as root, write the script to
/usr/share/bash-completion/completions/nsbroker.  For zsh, write it to a folder of $fpath as _nsbroker; for fish, to
~/.config/fish/completions/nsbroker.fish.  The scripts call `nsbroker completion targets PREFIX`, which prints the targets that
you may open, as far as the broker names them within a second."""
EXAMPLE = "nsbroker completion bash"

_SHELLS = ("bash", "zsh", "fish")
_TARGETS = "targets"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    parser.add_argument(
        "shell", metavar="SHELL", choices=(*_SHELLS, _TARGETS), help=f"print the script for this shell: {', '.join(_SHELLS)}"
    )
    parser.add_argument("prefix", metavar="PREFIX", nargs="?", help="with `targets`: print only targets that begin with this")


def run(options: argparse.Namespace) -> int:
    """Print the script, or the targets."""
    if options.shell == _TARGETS:
        for target in targets.find(options.prefix or ""):
            print(target)
        return 0
    if options.prefix is not None:
        raise InvalidTarget(f"completion {options.shell}: PREFIX can only be written after `{_TARGETS}`")
    module = import_module(f"nsbroker.cli.completion.{options.shell}")
    print(module.script(command_line.commands(options.parser())), end="")
    return 0
