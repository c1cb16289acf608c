"""Why the kernel did not make a socket: the text that the broker replies with, and which errno it stands for."""

import errno
import os
from collections.abc import Mapping

REASONS: Mapping[int, str] = {
    errno.EAFNOSUPPORT: "this kernel has no sockets of that family",
    errno.ESOCKTNOSUPPORT: "this kernel has no sockets of that type in that family",
    errno.EPROTONOSUPPORT: "the family has no such protocol for that type",
    errno.EADDRINUSE: "something else is bound to that address and port",
    errno.EADDRNOTAVAIL: "no interface inside has that address",
}
"""The reasons that are not the kernel's own text for the errno."""

_NUMBERS = {os.strerror(number): number for number in errno.errorcode} | {text: number for number, text in REASONS.items()}


def errno_of(reason: str) -> int | None:
    """Return the errno that `reason`, from the error SocketFailed, stands for, or None when it stands for none."""
    return _NUMBERS.get(reason)
