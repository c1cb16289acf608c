"""`nsbroker explain`."""

import argparse
import re
from collections.abc import Iterator

import msgspec

from nsbroker.cli import arguments, connection, rule_text, terminal
from nsbroker.cli.output import add_json, print_json, print_table
from nsbroker.errors import CommandFailed, InvalidParameter, InvalidTarget, PermissionDenied
from nsbroker.model.identity import NamespaceType
from nsbroker.model.interface import InterfaceKind
from nsbroker.model.socket_kind import SocketKind
from nsbroker.model.target import ENGINES, Target
from nsbroker.model.target_file import NAMES
from nsbroker.protocol.messages import ExplainReply, PermissionVerdict, TypeVerdict

HELP = """\
Show what the policy lets you open in a target, and which rule allows it.

Nothing is opened.  Without options it answers for every namespace type of the target.  --socket, --mark, --device, --file and
--interface ask about a socket, its mark (SO_MARK), a device, a file, or a network interface that you would add.  With --as, root
asks for another user, and sees how each rule fits and which rule is missing.  The exit code is 1 unless everything that you asked
for is allowed."""
EXAMPLE = "nsbroker explain container:web --socket inet:stream"

_DEVICE = re.compile("[A-Za-z0-9_.:@-]+(/[A-Za-z0-9_.:@-]+){0,7}")
_DEVICE_MAX = 255
_DEVICE_RULE = "write its name below /dev, such as null or net/tun: letters, digits and '_.:@-', at most 255, no part '.' or '..'"
_PROVING = ("container", *ENGINES, "unit")
_SUBJECT_KINDS = ("user", "group", *_PROVING)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    arguments.add_target(parser)
    arguments.add_types(parser, "all that the target has; with --socket, --mark, --device, --file or --interface: none")
    parser.add_argument(
        "--socket",
        metavar="FAMILY:TYPE[:PORT]",
        action="append",
        help="ask about this kind of socket: inet:stream, packet:raw, inet:stream:80, ...; PORT only to bind to a port below 1024",
    )
    parser.add_argument("--mark", metavar="N", type=_mark, action="append", help="ask about this mark of a socket: 0x100, 256, ...")
    parser.add_argument("--device", metavar="NAME", action="append", help="ask about this device below /dev: null, net/tun, ...")
    parser.add_argument(
        "--interface", choices=tuple(InterfaceKind), action="append", help="ask about adding an interface of this kind"
    )
    parser.add_argument(
        "--file",
        metavar="NAME",
        choices=NAMES,
        action="append",
        help="ask about this file, as in `nsbroker cat`: net/dev, ...",
    )
    parser.add_argument(
        "--as",
        metavar="user:NAME[,group:NAME][,unit:NAME][,container:NAME]",
        dest="who",
        type=_subject,
        help="ask for this user, with the groups of the host's user database, and with these besides; as root",
    )
    connection.add_timeout(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Print the tables or the JSON, and return 0 only when everything is allowed."""
    target, types = arguments.target(options), arguments.types(options)
    for kind in options.socket or ():
        SocketKind.parse(kind)
    for device in options.device or ():
        _check_device(device)
    explanation = _ask(options, target, types)
    if explanation.container_unknown:
        terminal.print_hint(f"rules for your container do not apply, since it is unknown: {explanation.container_unknown}")
    if explanation.target_unknown:
        terminal.print_message(f"the target was not found, so rules were compared with its name: {explanation.target_unknown}")
    missing = "" if explanation.allowed or options.who is None else _format_missing_rule(str(target), options.who, explanation)
    if options.json:
        print_json({**msgspec.to_builtins(explanation), **({"missingRule": missing} if missing else {})})
        return 0 if explanation.allowed else 1
    rows = [
        [f"{prefix}{name}", "allowed" if verdict.allowed else "denied", verdict.rule or "-"]
        for _, prefix, name, verdict in _verdicts(explanation)
    ]
    print_table(["WHAT", "VERDICT", "RULE"], rows)
    if explanation.rules is not None:
        _print_rules(explanation)
    if missing:
        print("\nThis rule would allow what is denied.  Write it into a file such as /etc/nsbroker/nsbroker.d/NAME.toml, then run")
        print(f"`nsbroker check-config` and `systemctl reload nsbroker`:\n\n{missing}", end="")
    return 0 if explanation.allowed else 1


def _ask(options: argparse.Namespace, target: Target, types: list[NamespaceType] | None) -> ExplainReply:
    """Ask the broker.  Raises CommandFailed for what is wrong with --as."""
    with connection.connect(options) as broker:
        try:
            return broker.explain(
                target,
                types,
                sockets=options.socket,
                devices=options.device,
                marks=options.mark,
                interfaces=options.interface,
                files=options.file,
                who=options.who,
            )
        except PermissionDenied as error:
            if options.who is None:
                raise
            raise CommandFailed("only root can ask for another user: run this command as root") from error
        except InvalidParameter as error:
            if error.parameter != "as":
                raise
            raise CommandFailed(f"--as {','.join(options.who)}: the broker's host has no such user or group") from error


def _verdicts(explanation: ExplainReply) -> Iterator[tuple[str, str, str, TypeVerdict | PermissionVerdict]]:
    """Yield each verdict after the key of a rule that it belongs to, what the table puts before the name, and the name."""
    for of_type in explanation.verdicts:
        yield "namespaces", "", of_type.type, of_type
    lists = {
        "sockets": ("", explanation.sockets),
        "devices": ("", explanation.devices),
        "interfaces": ("interface ", explanation.interfaces),
        "marks": ("mark ", explanation.marks),
        "files": ("file ", explanation.files),
    }
    for key, (prefix, verdicts) in lists.items():
        for verdict in verdicts or ():
            yield key, prefix, verdict.name, verdict


def _print_rules(explanation: ExplainReply) -> None:
    print()
    rows = [
        [
            rule.rule,
            _yes(rule.who),
            _yes(rule.target),
            ", ".join(rule.allows) or "-",
            ", ".join(rule.lacks) or "-",
            _yes(rule.ended),
            rule.file,
        ]
        for rule in explanation.rules or ()
    ]
    print_table(["RULE", "FOR-USER", "FOR-TARGET", "ALLOWS", "LACKS", "ENDED", "WRITTEN-IN"], rows)
    if explanation.rules_left_out:
        print(f"({explanation.rules_left_out} rules that fit less are left out)")


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _format_missing_rule(target: str, who: list[str], explanation: ExplainReply) -> str:
    """Return a rule that allows what is denied.  It is for the container or the unit that was given, or else for the user."""
    with arguments.daemon_installed():
        from nsbroker.daemon.policy.permission import device_in_rule
    permissions: dict[str, list[str]] = {}
    for key, _, name, verdict in _verdicts(explanation):
        if not verdict.allowed:
            permissions.setdefault(key, []).append(device_in_rule(name) if key == "devices" else name)
    entry = next((word for word in who if word.partition(":")[0] in _PROVING), who[0])
    name = rule_text.choose_name(entry, [rule.rule for rule in explanation.rules or ()])
    return rule_text.format_rule(name, [entry], ["own" if target == "self" else target], permissions)


def _subject(text: str) -> list[str]:
    """Return the entries of --as, that of the user first.  Raises ArgumentTypeError."""
    words = text.split(",")
    kinds = [word.partition(":")[0] for word in words]
    right = kinds.count("user") == 1 and kinds.count("unit") <= 1 and sum(kind in _PROVING[:-1] for kind in kinds) <= 1
    if not right or not set(kinds) <= set(_SUBJECT_KINDS) or not all(word.partition(":")[2] for word in words):
        raise argparse.ArgumentTypeError(
            f"{text[:80]!r}: write user:NAME, and if needed after commas group:NAME, unit:NAME.service, container:NAME"
        )
    return sorted(words, key=lambda word: not word.startswith("user:"))


def _mark(text: str) -> int:
    try:
        number = int(text, 0)
    except ValueError:
        number = 0
    if not 0 < number < 2**32:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a mark: write a number from 1 to 0xffffffff, such as 0x100")
    return number


def _check_device(name: str) -> None:
    """Raise InvalidTarget when `name` cannot be the name of a device.  The broker checks whether it exists and is allowed."""
    if len(name) > _DEVICE_MAX or not _DEVICE.fullmatch(name) or {".", ".."} & set(name.split("/")):
        raise InvalidTarget(f"{name[:80]!r} is not a device: {_DEVICE_RULE}")
