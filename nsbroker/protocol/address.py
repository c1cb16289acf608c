"""The address of the broker: `unix:/run/nsbroker/io.nsbroker.Broker`, or the one in $NSBROKER_ADDRESS."""

import os
from pathlib import Path

from nsbroker.errors import InvalidAddress

DEFAULT = "unix:/run/nsbroker/io.nsbroker.Broker"
VARIABLE = "NSBROKER_ADDRESS"
_PATH_MAX = 107  # unix(7): sun_path has 108 bytes, of which the last is NUL.


def socket_path(address: str | None = None) -> Path:
    """Return the path in `address`; by default the address is $NSBROKER_ADDRESS, or else `DEFAULT`.

    Raises InvalidAddress unless the address is `unix:` and an absolute path.  Abstract sockets are not supported, because
    they have no owner, and every container that shares the network namespace can reach them.
    """
    text = address or os.environ.get(VARIABLE) or DEFAULT
    path = text.removeprefix("unix:")
    try:
        is_path = path != text and path.startswith("/") and "\0" not in path and len(os.fsencode(path)) <= _PATH_MAX
    except UnicodeEncodeError:
        is_path = False
    if not is_path:
        raise InvalidAddress(f"{text!r} is not the address of a broker: write unix:/ABSOLUTE/PATH, at most {_PATH_MAX} bytes")
    return Path(path)
