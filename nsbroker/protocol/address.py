"""Where the broker listens: `unix:/run/nsbroker/io.nsbroker.Broker`, unless $NSBROKER_ADDRESS says otherwise."""

import os
from pathlib import Path

from nsbroker.errors import InvalidAddress

DEFAULT = "unix:/run/nsbroker/io.nsbroker.Broker"
VARIABLE = "NSBROKER_ADDRESS"
_PATH_MAX = 107  # unix(7): sun_path, less its NUL


def socket_path(address: str | None = None) -> Path:
    """The path in `address`, by default the environment's or the usual one.

    Raises InvalidAddress for anything but `unix:` and an absolute path: an abstract socket has no owner and reaches
    into every container that shares the network namespace.
    """
    text = address or os.environ.get(VARIABLE) or DEFAULT
    path = text.removeprefix("unix:")
    try:
        is_path = path != text and path.startswith("/") and "\0" not in path and len(os.fsencode(path)) <= _PATH_MAX
    except UnicodeEncodeError:
        is_path = False
    if not is_path:
        raise InvalidAddress(f"{text!r} is no address: write unix:/ABSOLUTE/PATH, at most {_PATH_MAX} bytes")
    return Path(path)
