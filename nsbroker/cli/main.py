"""Reading the command line, and turning every failure into one line and an exit code."""

import argparse
import sys
from importlib import import_module
from typing import NoReturn

from nsbroker.cli import terminal
from nsbroker.errors import InvalidAddress, InvalidTarget, InvalidType, NsbrokerError
from nsbroker.model.target import ENGINES
from nsbroker.version import VERSION

REFUSED = 1
USAGE = 2
_INTERRUPTED = 130

_COMMANDS = (
    "serve",
    "show",
    "open",
    "run",
    "forward",
    "connect",
    "devices",
    "ls",
    "tree",
    "watch",
    "map",
    "ps",
    "create",
    "hold",
    "release",
    "held",
    "whoami",
    "explain",
    "check",
    "status",
    "install-units",
    "remove-units",
)
"""Each is a module of its name in this package, with its HELP, `configure` (its arguments) and `run`."""

_DESCRIPTION = "Open Linux namespaces without being root: ask the broker, which decides by its policy."

_EPILOG = """\
targets:
  pid:4711            a process                 name:blue             as `ip netns` names it
  tid:4711/4715       one of its threads        net:[4026531840]      by id, as in /proc/self/ns
  self                the calling process       path:/run/x/netns/y   by the file it is bound to
  container:web       of any engine             docker:web            of that engine
  cri:default/pod1    a pod                     cri:default/pod1/c1   one of its containers
  unit:nginx.service  a systemd unit

examples:
  nsbroker show pid:4711                        the namespaces of a process
  nsbroker open name:blue -- sh -c 'readlink /proc/self/fd/3'
  nsbroker run pid:4711 --type net -- ip addr   run a command inside, where the kernel lets you
  nsbroker forward container:web 8080:80        a local port that leads to the container's loopback
  nsbroker ps                                   the containers that you may open
  nsbroker show container:web                   by name, id, or the beginning of an id
  nsbroker ls --without-process                 what is kept alive by something else, and by what
  nsbroker tree --type user                     user namespaces, and what each owns
  nsbroker watch --type net                     networks as they come and go
  nsbroker explain pid:4711                     which rule allows what

engines: ENGINES

The broker listens at $NSBROKER_ADDRESS (unix:/run/nsbroker/io.nsbroker.Broker).
Exit codes: 0; 1 refused or failed; 2 wrong usage; of open and run: the command's own.""".replace("ENGINES", ", ".join(ENGINES))


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every command does."""

    def error(self, message: str) -> NoReturn:
        """Complain, and end with the exit code of wrong usage."""
        command = self.prog.removeprefix("nsbroker").strip()
        terminal.say(f"{command + ': ' if command else ''}{message} (see `{self.prog} --help`)")
        raise SystemExit(USAGE)


def parser(only: str = "") -> argparse.ArgumentParser:
    """The whole command line; or as much of it as the command `only` takes, which is there sooner."""
    top = _Parser(prog="nsbroker", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--version", action="version", version=f"nsbroker {VERSION}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in [only] if only in _COMMANDS else _COMMANDS:
        module = import_module(f"nsbroker.cli.commands.{name.replace('-', '_')}")
        text: str = module.HELP
        summary = text.partition("\n")[0]
        sub = commands.add_parser(
            name,
            help=summary[0].lower() + summary[1:].rstrip("."),
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.configure(sub)
        sub.set_defaults(run=module.run, runs_command=name in ("open", "run"))
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code."""
    terminal.provide_standard_files()
    try:
        code = _run(sys.argv[1:] if arguments is None else arguments)
    except SystemExit as end:
        # Of argparse: after --help, --version or wrong usage.
        code = end.code if isinstance(end.code, int) else REFUSED
    except (InvalidAddress, InvalidTarget, InvalidType) as error:
        code = _complain(str(error), USAGE)
    except NsbrokerError as error:
        code = _complain(str(error), REFUSED)
    except BrokenPipeError:
        code = REFUSED  # Whoever read our output has enough.
    except OSError as error:
        code = _complain(str(error), REFUSED)
    except RecursionError:
        code = _complain("what the broker tells is nested too deeply to be shown", REFUSED)
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except Exception as error:
        # Ours to mend.  It must not look like anything else, nor spill over the screen.
        code = _complain(f"a fault in nsbroker itself: {type(error).__name__}: {error} (please report it)", REFUSED)
    return _flushed(code)


def _run(given: list[str]) -> int:
    # What follows the first `--` is the command's own, other `--` included: argparse would take those for itself.
    cut = given.index("--") if "--" in given else len(given)
    top = parser(given[0] if given else "")
    options = top.parse_args(given[:cut])
    options.command = given[cut + 1 :]
    if options.runs_command != bool(options.command):
        top.error("COMMAND is missing: write it after `--`" if options.runs_command else "`--` goes with open and run only")
    if options.command and not options.command[0]:
        top.error("COMMAND is empty: write the name of a program after `--`")
    return int(options.run(options))


def _complain(text: str, code: int) -> int:
    terminal.say(text)
    return code


def _flushed(code: int) -> int:
    """`code`, once all output is out; the code of a failure if it does not get there."""
    try:
        sys.stdout.flush()
    except OSError as error:
        terminal.silence(sys.stdout)
        if code == 0 and not isinstance(error, BrokenPipeError):
            terminal.say(f"cannot write to standard output: {error.strerror}")
        return code or REFUSED
    return code
