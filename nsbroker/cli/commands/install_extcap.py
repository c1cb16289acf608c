"""`nsbroker install-extcap`."""

import argparse

from nsbroker.cli import extcap_folder

HELP = """\
Make Wireshark and tshark list your containers as interfaces to capture from.

It writes a script of two lines, which runs `nsbroker extcap`, into the folder in which Wireshark looks for capture programs: your
own, or with --system that of all users.  `tshark -G folders` shows both.  Who may capture from which container is up to the
policy of the broker."""
EXAMPLE = "nsbroker install-extcap"


configure = extcap_folder.add_options


def run(options: argparse.Namespace) -> int:
    """Install the program, and print its path and what to do next."""
    print(extcap_folder.install(system=options.system))
    print("next: start Wireshark, or list the interfaces with: tshark -D")
    return 0
