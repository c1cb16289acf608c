"""`nsbroker extcap`.

Wireshark starts it several times for each interface when it starts, so what needs no broker loads no client.
"""

import argparse
import contextlib

from nsbroker.capture import EVERY_INTERFACE
from nsbroker.capture.link_types import ETHERNET, RAW_IP
from nsbroker.cli import arguments
from nsbroker.errors import CommandFailed
from nsbroker.version import VERSION

HELP = """\
Speak Wireshark's protocol for capture programs, extcap(4): Wireshark lists your containers as interfaces.

Wireshark starts it once `nsbroker install-extcap` has installed it.  The interfaces that it lists are the containers and the named
networks from which the policy lets you capture; their names are targets, so that `tshark -i docker:web` works."""
EXAMPLE = "nsbroker extcap --extcap-interfaces"

# Wireshark waits for every program before it shows its interfaces.
_LIST_SECONDS = 2.0
_SECONDS = 10.0
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
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=arguments.seconds,
        default=_SECONDS,
        help=f"give up when one step takes the broker longer (default: {_SECONDS:g}); the list of targets ends after "
        f"{_LIST_SECONDS:g} seconds with what was found until then",
    )


def run(options: argparse.Namespace) -> int:
    """Do what Wireshark asks for.  It takes all output on standard error for a failure."""
    if options.extcap_interfaces:
        print(f"extcap {{version={VERSION}}}{{display=nsbroker}}")
        from nsbroker.cli.capture_targets import find_targets  # imported only here: see above

        for target in find_targets(min(options.timeout, _LIST_SECONDS)):
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


def _print_options(options: argparse.Namespace) -> None:
    """List the one option: the interface.  Its values are only asked for when somebody opens the list."""
    values = {EVERY_INTERFACE: "all interfaces"}
    if (options.extcap_reload_option or "").lstrip("-") == _OPTION:
        from nsbroker.cli.capture_targets import find_interfaces  # as above
        from nsbroker.model.target import Target

        values |= {name: name for name in find_interfaces(Target.parse(options.extcap_interface), options.timeout)}
    else:
        print(
            f"arg {{number=0}}{{call=--{_OPTION}}}{{display=Interface}}{{tooltip=The interface of the target's network}}"
            "{type=selector}{reload=true}{placeholder=Load the interfaces}"
        )
    for value, title in values.items():
        print(f"value {{arg=0}}{{value={value}}}{{display={title}}}{{default={str(value == EVERY_INTERFACE).lower()}}}")


def _capture(options: argparse.Namespace) -> None:
    if options.fifo is None:
        options.fail("--capture needs --fifo PATH")
    from nsbroker.cli import capturing  # as above
    from nsbroker.client import blocking
    from nsbroker.model.target import Target

    target = Target.parse(options.extcap_interface)
    # Wireshark stops a capture with SIGTERM, or by closing the fifo.
    with contextlib.suppress(BrokenPipeError), blocking.connect(timeout=options.timeout) as broker:
        expression = options.extcap_capture_filter or ""
        gone = capturing.capture(broker, target, options.interface, expression, options.fifo, None).gone
        if gone:
            raise CommandFailed(f"the capture has ended, because {gone} of {target} went away")


def _check_filter(expression: str) -> None:
    """Print what is wrong with a filter.  Wireshark takes it for right when nothing is printed."""
    from nsbroker.capture.filters import make_program  # as above

    try:
        make_program(expression)
    except CommandFailed as error:
        print(error)
