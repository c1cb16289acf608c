"""`nsbroker forward`."""

import argparse
import asyncio
import contextlib
import os
import re
import resource
import signal
import socket
from collections.abc import Sequence
from typing import NamedTuple

import nsbroker.client.asyncio
from nsbroker.cli import arguments, connection, terminal
from nsbroker.cli.relay import Relay, reset
from nsbroker.errors import CommandFailed, NsbrokerError, PermissionDenied

HELP = """\
Forward local ports to ports on the loopback inside a target's network.

The target is looked up again for each connection, so the command still works after the target was restarted.  It runs until
you interrupt it."""
EXAMPLE = "nsbroker forward container:web 8080:80"

# The possessive quantifiers (*+, ++) prevent backtracking, so that a very long argument takes no time.
_SPEC = re.compile(
    r"(?:(?P<address>\[[0-9A-Fa-f:.%]+\]|[0-9]*+[^:\[\]0-9][^:\[\]]*+):)?(?:(?P<local>[0-9]{1,5}):)?(?P<port>[0-9]{1,5})"
)
_PORT_MAX = 65535
_BACKLOG = 1024
_PAUSE = 0.1
_LOOPBACKS = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


class Spec(NamedTuple):
    """What to forward: the local address, the local port (0: any free port) and the port inside."""

    address: str
    local: int
    port: int

    @classmethod
    def parse(cls, text: str) -> "Spec":
        """Parse `[ADDRESS:][LOCAL:]PORT`.  Raises ArgumentTypeError."""
        match = _SPEC.fullmatch(text)
        if match is None:
            raise argparse.ArgumentTypeError(f"{text[:80]!r} is not [ADDRESS:][LOCAL:]PORT, such as 8080 or 127.0.0.1:9000:80")
        port = int(match["port"])
        local = port if match["local"] is None else int(match["local"])
        if not 0 < port <= _PORT_MAX or local > _PORT_MAX:
            raise argparse.ArgumentTypeError(
                f"{text[:80]!r}: a port is a number from 1 to {_PORT_MAX} (LOCAL may be 0: any free port)"
            )
        return cls((match["address"] or "127.0.0.1").strip("[]"), local, port)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    arguments.add_target(parser)
    parser.add_argument(
        "specs",
        metavar="[ADDRESS:][LOCAL:]PORT",
        nargs="+",
        type=Spec.parse,
        help="forward port LOCAL of ADDRESS to PORT inside; default ADDRESS: 127.0.0.1, default LOCAL: same as PORT, "
        "LOCAL 0: any free port",
    )
    connection.add_timeout(parser)


def run(options: argparse.Namespace) -> int:
    """Listen on all local ports, and forward connections until SIGINT or SIGTERM."""
    target = arguments.target(options)
    connection.describe(options)
    # Each connection takes two descriptors, so raise the soft limit to the hard limit.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with contextlib.ExitStack() as sockets:
        listeners = [sockets.enter_context(_listen(spec)) for spec in options.specs]
        asyncio.run(_forward(str(target), options.specs, listeners, options.timeout))
    return 0


def _listen(spec: Spec) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(spec.address, spec.local, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        sock = socket.create_server(address, family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:
        # UnicodeError: the text cannot be a host name.
        reason = getattr(error, "strerror", None) or error
        raise CommandFailed(f"cannot listen on {spec.address} port {spec.local}: {reason}") from error
    sock.setblocking(False)
    return sock


async def _forward(target: str, specs: Sequence[Spec], listeners: Sequence[socket.socket], timeout: float) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with nsbroker.client.asyncio.connect(timeout=timeout) as broker:
        await _check_allowed(broker, target)
        relay = Relay()
        tasks = []
        for spec, listener in zip(specs, listeners, strict=True):
            print(terminal.printable(f"{_format_address(listener.getsockname())} leads to {target} port {spec.port}"), flush=True)
            tasks.append(asyncio.ensure_future(_accept_all(broker, relay, target, spec.port, listener)))
        stopping = asyncio.ensure_future(stop.wait())
        done, _ = await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
        for task in (*tasks, stopping):
            task.cancel()
        await asyncio.gather(*tasks, stopping, return_exceptions=True)
        relay.close()
        for task in done:
            task.result()


async def _check_allowed(broker: nsbroker.client.asyncio.Broker, target: str) -> None:
    """Raise PermissionDenied now, not only at the first connection, when no socket to forward to is allowed."""
    try:
        (await broker.socket(target)).close()
    except PermissionDenied as error:
        try:
            (await broker.socket(target, socket.AF_INET6)).close()
        except PermissionDenied:
            raise error from None


async def _accept_all(
    broker: nsbroker.client.asyncio.Broker, relay: Relay, target: str, port: int, listener: socket.socket
) -> None:
    loop = asyncio.get_running_loop()
    under_way: set[asyncio.Task[None]] = set()
    try:
        while True:
            try:
                local, _ = await loop.sock_accept(listener)
            except OSError as error:
                # No descriptors are left.  New connections wait in the kernel's queue until others end.
                terminal.print_message(f"cannot accept a connection: {error.strerror}")
                await asyncio.sleep(_PAUSE)
                continue
            task = asyncio.create_task(_serve(broker, relay, target, port, local))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


async def _serve(broker: nsbroker.client.asyncio.Broker, relay: Relay, target: str, port: int, local: socket.socket) -> None:
    """Forward one connection.  Takes `local`."""
    try:
        inside = await _connect(broker, target, port)
    except BaseException as error:
        reset(local)
        local.close()
        if not isinstance(error, NsbrokerError | OSError):
            raise
        # The text of an OSError that asyncio raises is not fit for users, so print the text of its errno.
        terminal.print_message(
            f"{target} port {port}: {error if isinstance(error, NsbrokerError) else os.strerror(error.errno or 0)}"
        )
        return
    await relay.run(local, inside)


async def _connect(broker: nsbroker.client.asyncio.Broker, target: str, port: int) -> socket.socket:
    """Connect to the loopback inside, over IPv4 or else IPv6.  The socket is the caller's to close."""
    first: Exception | None = None
    for family, address in _LOOPBACKS:
        sock = None
        try:
            sock = await broker.socket(target, family)
            await asyncio.get_running_loop().sock_connect(sock, (address, port))
        except BaseException as error:
            if sock is not None:
                sock.close()
            if not isinstance(error, NsbrokerError | OSError):
                raise
            first = first or error
        else:
            return sock
    raise first or AssertionError


def _format_address(address: tuple[str, int] | tuple[str, int, int, int]) -> str:
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"
