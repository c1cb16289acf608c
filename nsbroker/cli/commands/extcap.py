"""`nsbroker extcap`."""

import argparse
import contextlib
import os
import re
from collections.abc import Iterator, Sequence

from nsbroker.capture.capturing import EVERY_INTERFACE
from nsbroker.capture.filters import make_program
from nsbroker.capture.link_types import ETHERNET, RAW_IP
from nsbroker.cli import capturing, connection
from nsbroker.cli.time_limit import TimeIsUp, time_limit
from nsbroker.client import blocking
from nsbroker.errors import CommandFailed, NsbrokerError
from nsbroker.linux import network_interfaces
from nsbroker.model.target import Target
from nsbroker.version import VERSION

HELP = """\
Speak Wireshark's protocol for capture programs, extcap(4): Wireshark lists your containers as interfaces.

Wireshark starts it once `nsbroker install-extcap` has installed it.  The interfaces that it lists are the containers and the named
networks from which the policy lets you capture; their names are targets, so that `tshark -i docker:web` works."""
EXAMPLE = "nsbroker extcap --extcap-interfaces"

# Wireshark waits for every program before it shows its interfaces.
_LIST_SECONDS = 2.0
_NETNS = "/run/netns"
# Engines name the networks of their containers so; the containers themselves are listed.
_OF_ENGINES = re.compile(r"(?:cni|netns)-[0-9a-f]{8}-[0-9a-f-]+")
# What can stand in the value of an interface, and in the name of a file.
_PLAIN = re.compile(r"[A-Za-z0-9_.:@/+-]{1,128}")
_OPTION = "interface"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its arguments, whose names Wireshark chooses."""
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--extcap-interfaces", action="store_true", help="list the targets from which you may capture")
    action.add_argument("--extcap-dlts", action="store_true", help="list the kinds of link-level headers")
    action.add_argument("--extcap-config", action="store_true", help="list the options of a capture")
    action.add_argument("--capture", action="store_true", help="capture into the file of --fifo")
    parser.add_argument("--extcap-version", metavar="VERSION", nargs="?", help="the version of Wireshark; nothing depends on it")
    parser.add_argument("--extcap-interface", metavar="TARGET", help="use this target")
    parser.add_argument("--extcap-reload-option", metavar="OPTION", help="list the values of this option: interface")
    parser.add_argument("--extcap-capture-filter", metavar="FILTER", help="capture only what fits; without --capture: check it")
    parser.add_argument("--fifo", metavar="PATH", help="write the capture to this file")
    parser.add_argument(
        "--interface",
        metavar="IF",
        default=EVERY_INTERFACE,
        help="capture from this interface of the target (default: any, which is all of them)",
    )
    connection.add_timeout(parser, "; a list ends after two seconds with what was found until then")


def run(options: argparse.Namespace) -> int:
    """Do what Wireshark asks for.  It takes all output on standard error for a failure."""
    if options.extcap_interfaces:
        print(f"extcap {{version={VERSION}}}{{display=nsbroker}}")
        for target in _find_targets(options.timeout):
            print(f"interface {{value={target}}}{{display={target} (nsbroker)}}")
    elif options.extcap_interface is None:
        options.fail("this command is for Wireshark: run `nsbroker install-extcap`, and start Wireshark")
    elif options.extcap_dlts:
        for link_type in (ETHERNET, RAW_IP):
            print(f"dlt {{number={link_type.number}}}{{name={link_type.name}}}{{display={link_type.title}}}")
    elif options.extcap_config:
        _print_options(options)
    elif options.capture:
        _capture(options)
    elif options.extcap_capture_filter is not None:
        _check_filter(options.extcap_capture_filter)
    else:
        options.fail("write one of --extcap-dlts, --extcap-config, --capture and --extcap-capture-filter")
    return 0


def _find_targets(timeout: float) -> Sequence[str]:
    """Return the targets from which this user may capture, as far as they are found in time: none when the broker is away."""
    found: list[str] = []
    seconds = min(timeout, _LIST_SECONDS)
    with contextlib.suppress(NsbrokerError, OSError, TimeIsUp), time_limit(seconds), blocking.connect(timeout=seconds) as broker:
        for target in dict.fromkeys(_candidates(broker)):
            if _PLAIN.fullmatch(target) and _may_capture(broker, target):
                found.append(target)  # noqa: PERF401 - what was found stays when the time is up
    return found


def _candidates(broker: blocking.Broker) -> Iterator[str]:
    yield from (f"{one.engine}:{(*one.names, one.id)[0]}" for one in broker.containers().containers)
    yield from (f"name:{one.name}" for one in broker.held())
    with contextlib.suppress(OSError):  # There is no such folder, or others may not read it.
        yield from (f"name:{name}" for name in sorted(os.listdir(_NETNS)) if not _OF_ENGINES.fullmatch(name))


def _may_capture(broker: blocking.Broker, target: str) -> bool:
    try:
        return broker.explain(target, sockets=[capturing.PERMISSION]).allowed
    except NsbrokerError:
        return False  # It has ended by now.


def _print_options(options: argparse.Namespace) -> None:
    """List the one option: the interface.  Its values are only asked for when somebody opens the list."""
    values = {EVERY_INTERFACE: "all interfaces"}
    if (options.extcap_reload_option or "").lstrip("-") == _OPTION:
        values |= {name: name for name in _interfaces(options)}
    else:
        print(
            f"arg {{number=0}}{{call=--{_OPTION}}}{{display=Interface}}{{tooltip=The interface of the target's network}}"
            "{type=selector}{reload=true}{placeholder=Load the interfaces}"
        )
    for value, title in values.items():
        print(f"value {{arg=0}}{{value={value}}}{{display={title}}}{{default={str(value == EVERY_INTERFACE).lower()}}}")


def _interfaces(options: argparse.Namespace) -> Sequence[str]:
    target = Target.parse(options.extcap_interface)
    with contextlib.suppress(NsbrokerError, OSError), blocking.connect(timeout=options.timeout) as broker:
        sock = capturing.open_socket(broker, target)
        with sock:
            return [name for name in network_interfaces.names(sock) if _PLAIN.fullmatch(name)]
    return ()


def _capture(options: argparse.Namespace) -> None:
    if options.fifo is None:
        options.fail("--capture needs --fifo PATH")
    target = Target.parse(options.extcap_interface)
    # Wireshark stops a capture with SIGTERM, or by closing the fifo.
    with contextlib.suppress(BrokenPipeError), blocking.connect(timeout=options.timeout) as broker:
        expression = options.extcap_capture_filter or ""
        gone = capturing.capture(broker, target, options.interface, expression, options.fifo, None).gone
        if gone:
            raise CommandFailed(f"the capture has ended, because {gone} of {target} went away")


def _check_filter(expression: str) -> None:
    """Print what is wrong with a filter.  Wireshark takes it for right when nothing is printed."""
    try:
        make_program(expression)
    except CommandFailed as error:
        print(error)
