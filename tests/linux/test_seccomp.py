"""Answering the socket(2) calls of real processes."""

import errno
import fcntl
import os
import platform
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from nsbroker.linux import ancillary, seccomp, seccomp_filter
from nsbroker.linux.seccomp import Notification
from tests.world import LINUX, PATIENCE, eventually

pytestmark = pytest.mark.skipif(LINUX < (5, 14), reason="a socket can be given in one step only since Linux 5.14")

ALLOW, NOTIFY, ENOSYS, UNSUPPORTED = 0x7FFF0000, 0x7FC00000, 0x00050026, 0x00050061


def decide(program: bytes, number: int, architecture: int, argument: int) -> int:
    """Run a BPF program as the kernel does, and return its verdict."""
    data = struct.pack("=iIQ6Q", number, architecture, 0, argument, 0, 0, 0, 0, 0)
    lines = list(struct.iter_unpack("=HBBI", program))
    at = value = 0
    while True:
        code, yes, no, operand = lines[at]
        at += 1
        if code == 0x20:
            (value,) = struct.unpack_from("=I", data, operand)
        elif code == 0x15:
            at += yes if value == operand else no
        elif code == 0x35:
            at += yes if value >= operand else no
        else:
            return int(operand)


@pytest.mark.parametrize(
    ("machine", "architecture", "number"), [("x86_64", 0xC000003E, 41), ("aarch64", 0xC00000B7, 198)], ids=lambda value: str(value)
)
def test_the_filter_decides_about_every_family(machine: str, architecture: int, number: int) -> None:
    program = seccomp_filter.program(machine)
    verdicts = {family: decide(program, number, architecture, family) for family in range(64)}
    assert {family for family, verdict in verdicts.items() if verdict == NOTIFY} == set(seccomp_filter.FAMILIES)
    assert {family for family, verdict in verdicts.items() if verdict == ALLOW} == {socket.AF_UNIX, socket.AF_ALG}
    assert {verdict for verdict in verdicts.values() if verdict not in (ALLOW, NOTIFY)} == {UNSUPPORTED}
    # The kernel reads an int: what is above does not count.
    assert decide(program, number, architecture, socket.AF_INET | 1 << 32) == NOTIFY


@pytest.mark.parametrize(("machine", "architecture"), [("x86_64", 0xC000003E), ("aarch64", 0xC00000B7)])
def test_other_calls_are_allowed_and_other_architectures_have_none(machine: str, architecture: int) -> None:
    program = seccomp_filter.program(machine)
    number = seccomp_filter.architecture(machine).socket
    assert {decide(program, other, architecture, socket.AF_INET) for other in range(424) if other != number} == {ALLOW}
    assert decide(program, 425, architecture, 0) == ENOSYS
    assert decide(program, number | 0x40000000, architecture, socket.AF_INET) == ENOSYS
    for foreign in (0x40000003, 0x40000028, 0xC00000F3, 0xC00000B7 if machine == "x86_64" else 0xC000003E):
        assert decide(program, number, foreign, socket.AF_INET) == ENOSYS


def test_an_unknown_architecture_is_an_error() -> None:
    with pytest.raises(OSError, match="system calls of m68k are not known"):
        seccomp_filter.program("m68k")
    assert seccomp_filter.architecture() == seccomp_filter.architecture(platform.machine())


@contextmanager
def filtered(function: Callable[[], object]) -> Iterator[tuple[int, int]]:
    """Run `function` in a child with the filter.  Its exit code is 0 when it returns.  Yields the listener and the pid."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            listener = seccomp.install()
            ancillary.send(theirs, b"!", [listener])
            os.close(listener)
            theirs.close()
            function()
            os._exit(0)
        finally:
            os._exit(1)
    theirs.close()
    with ours:
        _, [listener] = ancillary.receive_into(ours, memoryview(bytearray(1)))
    try:
        yield listener, pid
    finally:
        os.close(listener)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def next_call(listener: int) -> Notification:
    assert seccomp.wait(listener, round(1000 * PATIENCE)) & select.POLLIN
    return seccomp.receive(listener)


def ends_with(pid: int, code: int) -> None:
    """Check the exit code of the child."""
    end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert end
    assert end.si_status == code


def test_a_call_is_answered_with_a_descriptor_and_its_flags() -> None:
    def ask() -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 17)
        assert sock.getsockname() == name
        assert not os.get_blocking(sock.fileno())
        assert not os.get_inheritable(sock.fileno())

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", 0))
        made.setblocking(False)
        name = made.getsockname()
        with filtered(ask) as (listener, pid):
            call = next_call(listener)
            flags = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            assert call[1:] == (pid, socket.AF_INET, socket.SOCK_DGRAM | flags, 17)
            assert seccomp.is_valid(listener, call.id)
            seccomp.give(listener, call.id, made.fileno(), close_on_exec=True)
            assert not seccomp.is_valid(listener, call.id)
            ends_with(pid, 0)


def test_a_call_is_answered_with_an_errno_or_continues() -> None:
    def ask() -> None:
        with pytest.raises(OSError, match="Network is down"):
            socket.socket(socket.AF_INET6)
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).bind((0, 0))

    with filtered(ask) as (listener, pid):
        seccomp.refuse(listener, next_call(listener).id, errno.ENETDOWN)
        seccomp.let_continue(listener, next_call(listener).id)
        ends_with(pid, 0)


def test_negative_arguments_arrive_as_the_kernel_reads_them() -> None:
    with filtered(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, -5)) as (listener, _):
        assert next_call(listener).protocol == -5


def test_local_sockets_do_not_wait_and_io_uring_does_not_exist() -> None:
    def ask() -> None:
        socket.socketpair()
        socket.socket(socket.AF_UNIX)
        for family in (43, 30, 44):  # SMC, TIPC, XDP
            with pytest.raises(OSError, match="not supported"):
                socket.socket(family)
        code = "import ctypes; l = ctypes.CDLL(None, use_errno=True); l.syscall(425, 1, 0); print(ctypes.get_errno())"
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"38\n"

    with filtered(ask) as (_, pid):
        ends_with(pid, 0)


def test_without_a_listener_calls_fail() -> None:
    def ask() -> None:
        with pytest.raises(OSError, match="Function not implemented"):
            socket.socket()

    with filtered(ask) as (listener, pid):
        assert seccomp.wait(listener, round(1000 * PATIENCE)) & select.POLLIN
        spare = os.open(os.devnull, os.O_RDONLY)
        os.dup2(spare, listener)
        os.close(spare)
        ends_with(pid, 0)


def test_a_caller_that_was_killed_is_gone() -> None:
    with filtered(socket.socket) as (listener, pid):
        call = next_call(listener)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not seccomp.is_valid(listener, call.id), "the call no longer waits")
        with pytest.raises(FileNotFoundError):
            seccomp.refuse(listener, call.id, errno.EACCES)
        with socket.socket() as made, pytest.raises(FileNotFoundError):
            seccomp.give(listener, call.id, made.fileno(), close_on_exec=True)


def test_a_caller_with_too_many_open_files_still_waits() -> None:
    def ask() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        with pytest.raises(OSError, match="Too many open files"):
            socket.socket()

    with socket.socket() as made, filtered(ask) as (listener, pid):
        call = next_call(listener)
        with pytest.raises(OSError, match="Too many open files"):
            seccomp.give(listener, call.id, made.fileno(), close_on_exec=True)
        seccomp.refuse(listener, call.id, errno.EMFILE)
        ends_with(pid, 0)


@pytest.mark.skipif(LINUX < (5, 19), reason="before Linux 5.19 a signal interrupts a call that is being answered")
def test_a_signal_does_not_interrupt_a_call_that_was_received() -> None:
    arrived = threading.Event()

    def ask() -> None:
        signal.signal(signal.SIGUSR1, lambda *_: None)
        socket.socket()

    with socket.socket() as made, filtered(ask) as (listener, pid):
        call = next_call(listener)
        for _ in range(20):
            os.kill(pid, signal.SIGUSR1)
            arrived.wait(0.001)
        seccomp.give(listener, call.id, made.fileno(), close_on_exec=True)
        ends_with(pid, 0)


def test_an_answer_that_a_signal_interrupts_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel can be interrupted only while another thread uses the listener, so the first try of each call is replaced."""
    tried: list[int] = []

    def interrupted(listener: int, request: int, argument: bytes | bytearray) -> int | bytes:
        if request != seccomp._NOTIF_RECV and request not in tried:
            tried.append(request)
            raise InterruptedError(errno.EINTR, "a signal")
        return fcntl_ioctl(listener, request, argument)

    def ask() -> None:
        socket.socket()
        with pytest.raises(OSError, match="Network is down"):
            socket.socket()

    with socket.socket() as made, filtered(ask) as (listener, pid):
        fcntl_ioctl = fcntl.ioctl
        monkeypatch.setattr(fcntl, "ioctl", interrupted)
        call = next_call(listener)
        assert seccomp.is_valid(listener, call.id)
        seccomp.give(listener, call.id, made.fileno(), close_on_exec=True)
        seccomp.refuse(listener, next_call(listener).id, errno.ENETDOWN)
        ends_with(pid, 0)
    assert tried == [seccomp._NOTIF_ID_VALID, seccomp._NOTIF_ADDFD, seccomp._NOTIF_SEND]


@pytest.mark.skipif(LINUX < (5, 19), reason="before Linux 5.19 a descriptor is given in one step")
def test_an_answer_that_is_interrupted_late_does_not_lead_to_descriptor_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """With SECCOMP_ADDFD_FLAG_SEND the kernel has the answer by then, and the call returns 0: no test can time that."""
    flags: list[int] = []

    def noted(listener: int, request: int, argument: bytes | bytearray) -> int | bytes:
        if request == seccomp._NOTIF_ADDFD:
            flags.append(seccomp._ADDFD.unpack(argument)[1])
        return fcntl_ioctl(listener, request, argument)

    def ask() -> None:
        assert socket.socket().fileno() > 2

    with socket.socket() as made, filtered(ask) as (listener, pid):
        fcntl_ioctl = fcntl.ioctl
        monkeypatch.setattr(fcntl, "ioctl", noted)
        seccomp.give(listener, next_call(listener).id, made.fileno(), close_on_exec=True)
        ends_with(pid, 0)
    assert flags == [0]


def test_the_listener_hangs_up_when_the_last_process_has_ended() -> None:
    def ask() -> None:
        if os.fork() == 0:
            os.setsid()
            socket.socket()

    with socket.socket() as made, filtered(ask) as (listener, pid):
        call = next_call(listener)
        assert not seccomp.wait(listener, 0) & select.POLLHUP
        seccomp.give(listener, call.id, made.fileno(), close_on_exec=True)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        if LINUX >= (6, 11):
            eventually(lambda: seccomp.wait(listener, 0) == select.POLLHUP, "the listener hangs up")


def test_a_second_listener_is_refused() -> None:
    def again() -> None:
        with pytest.raises(OSError, match="Device or resource busy"):
            seccomp.install()

    with filtered(again) as (_, pid):
        ends_with(pid, 0)
