"""The command `nsbroker`: parse the command line, run one command, and report every failure in one line with an exit code."""

import argparse
import sys
from importlib import import_module
from types import ModuleType
from typing import NoReturn

from nsbroker.cli import terminal
from nsbroker.cli.terminal import Verbosity
from nsbroker.errors import CommandFailed, ConfigurationError, InvalidAddress, InvalidTarget, InvalidType, NsbrokerError
from nsbroker.version import VERSION

REFUSED = 1
USAGE = 2
_INTERRUPTED = 130

GROUPS = {
    "use namespaces": ("show", "open", "exec"),
    "sockets, files and devices": ("via", "forward", "connect", "cat", "devices", "add-interface"),
    "capture packets": ("capture", "extcap", "install-extcap", "remove-extcap"),
    "look around": ("ls", "tree", "watch", "map", "containers", "exporter"),
    "hold namespaces": ("create", "hold", "release", "list-held"),
    "rights": ("whoami", "explain", "grant", "grants", "revoke"),
    "operate the broker": ("serve", "status", "check-config", "install-units", "remove-units"),
    "help": ("doctor", "completion"),
}
"""The commands, in the groups in which the help lists them.  `commands` has a module for each; see there what it contains."""
COMMANDS = tuple(name for names in GROUPS.values() for name in names)

_ALIASES = {"ps": "containers"}
# Words that no longer work: the error message names the command that replaces them.
_RENAMED = {"run": "exec", "held": "list-held", "check": "check-config"}
_VERSION = "--version"
_HELP = "help"
_WITH_COMMAND = ("open", "exec", "via")
_VERBOSITY_OPTIONS = ("-v", "--verbose", "--quiet")

_DESCRIPTION = "Open Linux namespaces without being root.  The broker opens them for you if its policy allows it."

_EPILOG = """\
targets:
  pid:4711            a process                 name:blue             a name of `ip netns`, or one that the broker holds
  tid:4711/4715       one of its threads        net:[4026531840]      a namespace id, as in /proc/self/ns
  self                the calling process       path:/run/x/netns/y   a bind mount of a namespace
  container:web       a container, any engine   docker:web            a container of this engine
  cri:default/pod1    a Kubernetes pod          cri:default/pod1/c1   one of its containers
  unit:nginx.service  a systemd unit

examples:
  nsbroker containers                           list the containers that you may open
  nsbroker show container:web                   show a container's namespaces (write its name, or how its id begins)
  nsbroker via container:web -- curl http://127.0.0.1:8080/
  nsbroker forward container:web 8080:80        forward local port 8080 to port 80 on the container's loopback
  nsbroker capture container:web | tcpdump -nr -
  nsbroker explain pid:4711                     show which rule allows what

engines: {engines}

-v, --verbose  say which broker is asked, what it is asked, and which rule allows it; --quiet: print only results and errors.
The address of the broker is $NSBROKER_ADDRESS, or unix:/run/nsbroker/io.nsbroker.Broker.  No colour: set $NO_COLOR.
Exit codes: 0 success; 1 refused or failed; 2 wrong usage; 130 interrupted (0 for serve, watch, forward, capture, exporter);
open, exec, via and add-interface --tap: the exit code of the command that they run (127: not found, 126: not executable)."""


class _Parser(argparse.ArgumentParser):
    """A parser that reports wrong usage in one line, without the usage text of argparse."""

    def error(self, message: str) -> NoReturn:
        """Print `message` and how to get help, and exit with USAGE."""
        command = self.prog.removeprefix("nsbroker").strip()
        terminal.print_message(f"{command + ': ' if command else ''}{message} (see `{self.prog} --help`)")
        raise SystemExit(USAGE)


class _TopParser(_Parser):
    """The parser of the whole command line.  Its help lists the commands in groups."""

    def format_help(self) -> str:
        """Return the help of `nsbroker` itself."""
        from nsbroker.model.target import ENGINES  # imported only when it is needed, because loading it takes time

        groups = []
        for title, names in GROUPS.items():
            lines = [f"  {name:<16}{_summary(_import_command(name))}" for name in names]
            groups.append("\n".join([f"{title}:", *lines]))
        usage = "usage: nsbroker [-v | --quiet] COMMAND [ARGUMENT]...\n       nsbroker --version"
        commands = "\n\n".join(groups)
        epilog = _EPILOG.format(engines=", ".join(ENGINES))
        return f"{usage}\n\n{_DESCRIPTION}\n\n{commands}\n\n`nsbroker help COMMAND` describes one command.\n\n{epilog}\n"


def _import_command(name: str) -> ModuleType:
    return import_module(f"nsbroker.cli.commands.{name.replace('-', '_')}")


def _summary(module: ModuleType) -> str:
    summary = str(module.HELP).partition("\n")[0]
    return summary[0].lower() + summary[1:].rstrip(".")


def parser(only: str = "") -> argparse.ArgumentParser:
    """Return the parser of the whole command line.

    To start faster, it knows only the command `only`, or none for `--version`.
    """
    top = _TopParser(prog="nsbroker")
    top.add_argument(_VERSION, action="version", version=f"nsbroker {VERSION}")
    commands = top.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    for name in () if only == _VERSION else [only] if only in COMMANDS else COMMANDS:
        module = _import_command(name)
        sub = commands.add_parser(
            name,
            description=module.HELP,
            epilog=f"example:\n  {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.configure(sub)
        _add_verbosity(sub)
        sub.set_defaults(run=module.run, runs_command=name in _WITH_COMMAND, parser=parser, fail=sub.error)
    return top


def _add_verbosity(sub: argparse.ArgumentParser) -> None:
    either = sub.add_mutually_exclusive_group()
    either.add_argument(
        "-v",
        "--verbose",
        action="store_const",
        const=Verbosity.VERBOSE,
        dest="verbosity",
        default=Verbosity.USUAL,
        help="say which broker is asked, what it is asked, how long that takes, and which rule allows it",
    )
    either.add_argument(
        "--quiet", action="store_const", const=Verbosity.QUIET, dest="verbosity", help="print only results and errors, no hints"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command that `arguments` (default: those of this process) ask for, and return the exit code."""
    terminal.provide_standard_files()
    try:
        code = _run(sys.argv[1:] if arguments is None else arguments)
    except SystemExit as end:
        # argparse exits after --help, --version and wrong usage.
        code = end.code if isinstance(end.code, int) else REFUSED
    except (InvalidAddress, InvalidTarget, InvalidType) as error:
        code = _print_error(str(error), USAGE)
    except NsbrokerError as error:
        code = _print_failure(error)
    except BrokenPipeError:
        code = REFUSED  # The reader of our output closed the pipe, as head(1) does: that needs no message.
    except OSError as error:
        code = _print_error(str(error), REFUSED)
    except RecursionError:
        code = _print_error("the broker's reply is nested too deeply to be shown", REFUSED)
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except Exception as error:
        # This is a bug in nsbroker.  Say so in one line, so that nobody takes it for a refusal, and print no traceback.
        code = _print_error(f"a fault in nsbroker itself: {type(error).__name__}: {error} (please report it)", REFUSED)
    return _flush(code)


def _print_failure(error: NsbrokerError) -> int:
    for problem in error.problems if isinstance(error, ConfigurationError) else (str(error),):
        terminal.print_message(problem)
    return error.exit_code if isinstance(error, CommandFailed) else REFUSED


def _run(given: list[str]) -> int:
    # The options for how much is printed may also stand before the command.
    count = next((place for place, word in enumerate(given) if word not in _VERBOSITY_OPTIONS), len(given))
    leading, given = given[:count], given[count:]
    if given[:1] == [_HELP]:
        given = _ask_for_help(given[1:])
    if not given:
        print(parser().format_help(), end="")
        return USAGE
    name = _ALIASES.get(given[0], given[0])
    # Everything after the first `--` belongs to the command, and so does any other `--`, which argparse would remove.
    cut = given.index("--") if "--" in given else len(given)
    top = parser(name)
    if name not in COMMANDS and not name.startswith("-"):
        top.error(_describe_unknown(name))
    options, unknown = top.parse_known_args([name, *(leading if name in COMMANDS else ()), *given[1:cut]])
    if unknown and hasattr(options, "words") and not any(word.startswith("-") for word in unknown):
        # Words behind an option: argparse has already given the last positional argument, which may be empty, no words at all.
        options.words += unknown
    elif unknown:
        options.fail(f"unrecognized arguments: {' '.join(unknown)[:200]}")
    terminal.set_verbosity(options.verbosity)
    options.command = given[cut + 1 :]
    if options.runs_command != bool(options.command):
        options.fail(
            "COMMAND is missing: write it after `--`"
            if options.runs_command
            else f"`--` can only be used with {', '.join(_WITH_COMMAND)} and add-interface --tap"
        )
    if options.command and not options.command[0]:
        options.fail("COMMAND is empty: write the name of a program after `--`")
    return int(options.run(options))


def _ask_for_help(words: list[str]) -> list[str]:
    """Return the command line that prints the help for the arguments `words` of `nsbroker help`."""
    if len(words) > 1:
        parser(_VERSION).error(f"help: write one command, such as `nsbroker help {words[0][:80]}`")
    return [*words, "--help"]


def _describe_unknown(name: str) -> str:
    if name in _RENAMED:
        return f"unknown command {name}; it is called {_RENAMED[name]} now"
    import difflib  # imported only when it is needed, because loading it takes time

    near = difflib.get_close_matches(name, [*COMMANDS, *_ALIASES, _HELP], 1)
    return f"unknown command {name[:80]!r}" + (f"; did you mean {near[0]}?" if near else "")


def _print_error(text: str, code: int) -> int:
    terminal.print_message(text)
    return code


def _flush(code: int) -> int:
    """Flush standard output, and return `code`, or REFUSED when `code` is 0 and the output could not be written."""
    try:
        sys.stdout.flush()
    except OSError as error:
        terminal.silence(sys.stdout)
        if code == 0 and not isinstance(error, BrokenPipeError):
            terminal.print_message(f"cannot write to standard output: {error.strerror}")
        return code or REFUSED
    return code
