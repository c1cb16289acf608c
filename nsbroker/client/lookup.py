"""Looking up a host name as a target does, for all clients: numbers, then the hosts file, then the servers of resolv.conf."""

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Literal

from nsbroker.errors import LookupFailed, NoSuchFile, PermissionDenied, SocketFailed
from nsbroker.model.target import Target
from nsbroker.names import hosts
from nsbroker.names.configuration import is_alone, read_alone

if TYPE_CHECKING:
    from nsbroker.names.awaiting import Network
    from nsbroker.names.blocking import OpenSocket

Resolve = Literal["here", "inside"]
"""Where host names are looked up: as this process does, or as the target does."""

_HOSTS, _CONFIGURATION = "hosts", "resolv.conf"
_MISSING = "dnspython, which asks name servers, is not installed: run pip install '.[dns]' in a checkout of nsbroker"


def is_inside(resolve: Resolve) -> bool:
    """Return whether host names are looked up as the target does.  Raises ValueError for any other word."""
    if resolve not in ("here", "inside"):
        raise ValueError(f"resolve: {resolve!r} is neither 'here' nor 'inside'")
    return resolve == "inside"


def look_up(target: Target, host: str, read: Callable[[str], bytes], open_socket: "OpenSocket", timeout: float | None) -> list[str]:
    """Return the addresses of `host`, as `target` knows them.  `read` reads a file of the target, by its name.

    `timeout` is in seconds, for asking all servers (None: as the target's resolv.conf says, at most half a minute).  Raises
    LookupFailed, and the errors of `read` and `open_socket`.
    """
    with _explaining(target, host):
        found = hosts.fixed(host)
        if not found:
            alone = is_alone(target)
            with contextlib.suppress(NoSuchFile):
                found = hosts.find(read_alone(target, _HOSTS) if alone else read(_HOSTS), host)
        if not found:
            try:
                from nsbroker.names import blocking
            except ImportError as error:
                raise LookupFailed(_MISSING) from error
            text = read_alone(target, _CONFIGURATION) if alone else read(_CONFIGURATION)
            found = blocking.look_up(host, text, open_socket, timeout)
        return found


async def look_up_async(target: Target, host: str, read: Callable[[str], Awaitable[bytes]], network: "Network") -> list[str]:
    """Like `look_up`, for trio and asyncio."""
    with _explaining(target, host):
        found = hosts.fixed(host)
        if not found:
            alone = is_alone(target)
            with contextlib.suppress(NoSuchFile):
                found = hosts.find(read_alone(target, _HOSTS) if alone else await read(_HOSTS), host)
        if not found:
            try:
                from nsbroker.names import awaiting
            except ImportError as error:
                raise LookupFailed(_MISSING) from error
            text = read_alone(target, _CONFIGURATION) if alone else await read(_CONFIGURATION)
            found = await awaiting.look_up(host, text, network)
        return found


@contextlib.contextmanager
def _explaining(target: Target, host: str) -> Iterator[None]:
    try:
        yield
    except (LookupFailed, NoSuchFile, PermissionDenied, SocketFailed) as error:
        raise LookupFailed(f"cannot look up {host[:253]!r} as {target} does: {error}") from error
    except OSError as error:
        # The files of a namespace alone are read here, not by the broker.
        if error.filename is None:
            raise
        raise LookupFailed(f"cannot look up {host[:253]!r} as {target} does: {error.filename}: {error.strerror}") from error
