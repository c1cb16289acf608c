"""Which answer a program gets: arguments as the kernel checks them, and an errno for each error."""

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from nsbroker import errors
from nsbroker.linux.seccomp import Notification
from nsbroker.model.socket_failure import REASONS
from nsbroker.via import core


@pytest.mark.parametrize(
    ("family", "kind", "protocol", "number"),
    [
        (socket.AF_INET, socket.SOCK_STREAM, 0, 0),
        (socket.AF_INET, socket.SOCK_STREAM, 262, 0),
        (socket.AF_INET, 0x100 | socket.SOCK_STREAM, 0, errno.EINVAL),
        (socket.AF_INET, 11, 0, errno.EINVAL),
        (socket.AF_INET, -1, 0, errno.EINVAL),
        (socket.AF_INET, 0, 0, errno.ESOCKTNOSUPPORT),
        (socket.AF_INET, socket.SOCK_RDM, 0, errno.ESOCKTNOSUPPORT),
        (socket.AF_INET, socket.SOCK_STREAM, -2, errno.EINVAL),
        (socket.AF_NETLINK, socket.SOCK_RAW, -2, errno.EPROTONOSUPPORT),
    ],
)
def test_wrong_arguments_are_refused_as_the_kernel_refuses_them(family: int, kind: int, protocol: int, number: int) -> None:
    assert core._find_fault(Notification(1, 1, family, kind, protocol), kind & ~0xF, kind & 0xF) == number
    if kind >= 0:  # Python takes −1 for SOCK_STREAM.
        assert kernels_answer(family, kind, protocol) == number


def kernels_answer(family: int, kind: int, protocol: int) -> int:
    try:
        socket.socket(family, kind, protocol).close()
    except OSError as error:
        return error.errno or 0
    return 0


def failures() -> Iterator[tuple[Exception, int]]:
    yield errors.PermissionDenied(), errno.EACCES
    yield errors.QuotaExceeded("connections"), errno.ENOBUFS
    yield errors.InvalidParameter("protocol"), errno.EINVAL
    yield errors.NoSuchTarget("name:blue", "it is gone"), errno.ENETDOWN
    yield errors.Timeout("open a socket", 10), errno.ENETDOWN
    yield errors.ConnectionFailed("no broker"), errno.ENETDOWN
    yield OSError(errno.EMFILE, "Too many open files"), errno.EMFILE
    yield ValueError("a fault"), errno.ENETDOWN
    yield errors.SocketFailed("name:blue", "inet:stream", "something else"), errno.ENETDOWN
    for number in (errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOBUFS, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT):
        yield errors.SocketFailed("name:blue", "inet:stream", REASONS.get(number, os.strerror(number))), number


@pytest.mark.parametrize(("error", "number"), list(failures()), ids=lambda value: type(value).__name__)
def test_every_error_has_an_errno(error: Exception, number: int) -> None:
    assert core._errno_for(error) == number
