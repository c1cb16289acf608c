"""What `nsbroker forward` tells: lines and a status line for people, JSON for programs, and that it is ready for whoever waits."""

import asyncio
import itertools
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from nsbroker.cli import terminal
from nsbroker.cli.forwarding.relay import Traffic
from nsbroker.cli.output import print_json

_UNITS = ("B", "kB", "MB", "GB", "TB")
_KILO = 1000


class Progress:
    """Tells what happens.  Of each connection only JSON tells; people get a status line if standard output is a terminal."""

    def __init__(self, *, json: bool) -> None:
        self._json = json
        self._live = not json and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._numbers = itertools.count(1)
        self._under_way: dict[int, Traffic] = {}
        self._all = 0
        self._sent = 0
        self._received = 0
        self._shown = ""

    def listening(self, listen: str, to: str, protocol: str) -> None:
        """Tell where it listens now, and where that leads."""
        if self._json:
            self._tell("listening", listen=listen, to=to, protocol=protocol)
        else:
            self._print(f"{'' if protocol == 'tcp' else f'{protocol} '}{listen} leads to {to}")

    def waiting(self, listen: str, why: str) -> None:
        """Tell that it cannot listen any longer, and will do so again when it can."""
        if self._json:
            self._tell("waiting", listen=listen, error=why)
        else:
            self.complain(f"{listen}: {why}.  It will listen again as soon as it can")

    def failed(self, to: str, why: str) -> None:
        """Tell that a connection, or what a client sends, could not be forwarded."""
        if self._json:
            self._tell("failed", to=to, error=why)
        else:
            self.complain(f"{to}: {why}")

    def complain(self, text: str) -> None:
        """Print one line on standard error."""
        self._erase()
        terminal.print_message(text)

    @contextmanager
    def connection(self, listen: str, to: str) -> Iterator[Traffic]:
        """Tell of a connection, or of a client that sends datagrams, when it begins and ends.  The block counts its bytes."""
        number = next(self._numbers)
        traffic = self._under_way[number] = Traffic.none()
        self._all = number
        if self._json:
            self._tell("opened", connection=number, listen=listen, to=to)
        try:
            yield traffic
        finally:
            del self._under_way[number]
            self._sent += traffic.sent.bytes
            self._received += traffic.received.bytes
            if self._json:
                self._tell("closed", connection=number, sent=traffic.sent.bytes, received=traffic.received.bytes)

    async def show(self) -> None:
        """Refresh the status line each second until this is cancelled.  Returns at once if there is none."""
        try:
            while self._live:
                self._draw()
                await asyncio.sleep(1)
        finally:
            self._erase()

    def _draw(self) -> None:
        sent = self._sent + sum(one.sent.bytes for one in self._under_way.values())
        received = self._received + sum(one.received.bytes for one in self._under_way.values())
        text = f"{len(self._under_way)} open, {self._all} in all, {amount(sent)} sent, {amount(received)} received"
        if text != self._shown:
            self._erase()
            self._shown = text
            print(terminal.truncate(text, terminal.width()), end="", flush=True)

    def _erase(self) -> None:
        if self._shown:
            print(terminal.ERASE_LINE, end="", flush=True)
            self._shown = ""

    def _print(self, line: str) -> None:
        self._erase()
        print(terminal.printable(line), flush=True)

    @staticmethod
    def _tell(event: str, **details: object) -> None:
        print_json({"event": event, **details}, indent=None)


def amount(count: int) -> str:
    """Format a number of bytes, such as 4.2 MB."""
    size, unit = float(count), 0
    while size >= _KILO and unit < len(_UNITS) - 1:
        size, unit = size / _KILO, unit + 1
    return f"{size:.{0 if unit == 0 else 1}f} {_UNITS[unit]}"


def announce_ready(ready_fd: int | None) -> None:
    """Tell whoever waits for it that it listens everywhere now.

    `ready_fd` (taken; None: nobody waits) gets a newline and is closed, as s6 and others expect it.  A service manager that has
    set $NOTIFY_SOCKET gets READY=1 (sd_notify(3)), a protocol for which no library is needed.  Raises OSError.
    """
    if ready_fd is not None:
        try:
            os.write(ready_fd, b"\n")
        finally:
            os.close(ready_fd)
    if path := os.environ.get("NOTIFY_SOCKET"):
        address = os.fsencode(path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"READY=1", b"\0" + address[1:] if address.startswith(b"@") else address)
