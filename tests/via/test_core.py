"""Which answer a program gets: arguments as the kernel checks them, and an errno for each error."""

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from nsbroker import errors
from nsbroker.linux import seccomp
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


@pytest.fixture
def answers() -> Iterator[core.Answers]:
    """Answers of which the listener is none, so that calls of it are replaced."""
    made = core.Answers(os.open(os.devnull, os.O_RDONLY), os.open("/proc/self/ns/net", os.O_RDONLY))
    yield made
    made.close()


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ESRCH, errno.EINPROGRESS])
def test_a_call_that_does_not_wait_for_an_answer_is_no_error(
    answers: core.Answers, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """EINPROGRESS comes after a signal that interrupts the kernel at the right moment, which no test can time."""

    def refused(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    for function in ("give", "refuse", "let_continue"):
        monkeypatch.setattr(seccomp, function, refused)
    monkeypatch.setattr(seccomp, "is_valid", lambda *_: True)
    monkeypatch.setattr(answers, "_has_moved", lambda _: True)
    assert answers.begin(Notification(1, 1, socket.AF_INET, socket.SOCK_STREAM, 0)) is None
    call = core.SocketCall(1, socket.AF_INET, socket.SOCK_STREAM, 0, blocking=True, close_on_exec=True)
    answers.fail(call, errors.PermissionDenied())
    with socket.socket() as made:
        answers.give(call, made.fileno())
