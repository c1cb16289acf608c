"""The bare server: the same call with trio and msgspec, and nothing that could be left out.

usage: python -m tests.bench.bare PATH

It decodes the call, pins the process, opens the namespaces, reads their identity, replies with them and closes them.  It has no
policy, no records and no limits, and does not know who asks.  So nothing in Python on trio can be much faster.
"""

import array
import contextlib
import fcntl
import os
import socket
import sys

import msgspec
import trio

_PIDFD_GET_NAMESPACE = {  # Linux 6.11, _IO(0xff, n)
    "cgroup": 0xFF01,
    "ipc": 0xFF02,
    "mnt": 0xFF03,
    "net": 0xFF04,
    "pid": 0xFF05,
    "time": 0xFF07,
    "user": 0xFF09,
    "uts": 0xFF0A,
}
_NOSIGNAL = int(socket.MSG_NOSIGNAL)


class _Target(msgspec.Struct):
    pid: int


class _Parameters(msgspec.Struct):
    target: _Target
    types: list[str]


class _Call(msgspec.Struct):
    method: str
    parameters: _Parameters


class _Namespace(msgspec.Struct, rename="camel"):
    type: str
    device: int
    inode: int
    namespace_file_descriptor: int


class _Namespaces(msgspec.Struct):
    namespaces: list[_Namespace]


class _Reply(msgspec.Struct):
    parameters: _Namespaces


_decode = msgspec.json.Decoder(_Call).decode
_encode = msgspec.json.Encoder().encode


def _by_pidfd(pidfd: int, pid: int, ns_type: str) -> int:
    return fcntl.ioctl(pidfd, _PIDFD_GET_NAMESPACE[ns_type])


def _by_path(pidfd: int, pid: int, ns_type: str) -> int:
    return os.open(f"/proc/{pid}/ns/{ns_type}", os.O_RDONLY | os.O_CLOEXEC)


def _kernel_opens_by_pidfd() -> bool:
    pidfd = os.pidfd_open(os.getpid())
    try:
        os.close(_by_pidfd(pidfd, 0, "net"))
    except OSError:
        return False
    finally:
        os.close(pidfd)
    return True


_open = _by_pidfd if _kernel_opens_by_pidfd() else _by_path


def _answer(text: bytes) -> tuple[bytes, list[int]]:
    """Return the reply and the fds (the caller's) that go with it."""
    parameters = _decode(text).parameters
    pid = parameters.target.pid
    found, fds = [], []
    pidfd = os.pidfd_open(pid)
    try:
        for index, ns_type in enumerate(parameters.types):
            fd = _open(pidfd, pid, ns_type)
            fds.append(fd)
            facts = os.fstat(fd)
            found.append(_Namespace(ns_type, facts.st_dev, facts.st_ino, index))
    finally:
        os.close(pidfd)
    return _encode(_Reply(_Namespaces(found))) + b"\0", fds


async def _send(sock: socket.socket, reply: bytes, fds: list[int]) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
    while True:
        try:
            sock.sendmsg([reply], rights, _NOSIGNAL)
            return
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)


async def _serve(sock: socket.socket) -> None:
    """Serve one connection to its end.  Takes `sock`."""
    rest = b""
    with sock, contextlib.suppress(ConnectionError):
        while True:
            await trio.lowlevel.wait_readable(sock)
            data = sock.recv(1 << 16)
            if not data:
                return
            *calls, rest = (rest + data).split(b"\0")
            for text in calls:
                reply, fds = _answer(text)
                try:
                    await _send(sock, reply, fds)
                finally:
                    for fd in fds:
                        os.close(fd)


async def _main(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as listener:
        listener.bind(path)
        listener.listen()
        async with trio.open_nursery() as nursery:
            while True:
                await trio.lowlevel.wait_readable(listener)
                sock, _ = listener.accept()
                sock.setblocking(False)
                nursery.start_soon(_serve, sock)


if __name__ == "__main__":
    trio.run(_main, sys.argv[1])
