"""The programs that nsbroker is compared with.  Each function returns the seconds of single rounds."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import asyncvarlink


def rounds(work: Callable[[], object], count: int) -> list[float]:
    """Return the seconds of each of `count` runs of `work`, after some runs to warm up."""
    for _ in range(count // 10):
        work()
    times = []
    for _ in range(count):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return times


def c_pair(pid: int, count: int) -> list[float]:
    """Run two C processes that do only the system calls."""
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/pair"
        subprocess.run(["cc", "-O2", "-o", program, Path(__file__).with_name("pair.c")], check=True)
        lines = subprocess.run([program, str(pid), str(count)], capture_output=True, text=True, check=True).stdout.split()
    return [int(line) / 1e9 for line in lines]


def direct(pid: int, count: int) -> list[float]:
    """Open /proc/PID/ns/net in this process, without a broker."""
    return rounds(lambda: os.close(os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)), count)


class Opener(asyncvarlink.VarlinkInterface, name="com.example.Opener"):
    """The same work, implemented with asyncvarlink."""

    @asyncvarlink.varlinkmethod(return_parameter="namespace")
    def Open(self, *, pid: int) -> asyncvarlink.FileDescriptor:  # noqa: N802 - the name on the wire
        """Pin the process, open its network namespace, and hand it over."""
        pidfd = os.pidfd_open(pid)
        fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        os.close(pidfd)
        return asyncvarlink.FileDescriptor(fd, should_close=True)


async def _serve_asyncvarlink(path: str) -> None:
    registry = asyncvarlink.VarlinkInterfaceRegistry()
    registry.register_interface(Opener())
    server = await asyncvarlink.create_unix_server(registry.protocol_factory, path)
    async with server:
        await asyncio.Event().wait()


async def _ask_asyncvarlink(path: str, pid: int, count: int) -> list[float]:
    _, protocol = await asyncvarlink.connect_unix_varlink(asyncvarlink.VarlinkClientProtocol, path)
    call = asyncvarlink.VarlinkMethodCall("com.example.Opener.Open", {"pid": pid})
    loop = asyncio.get_running_loop()
    times = []
    for _ in range(count):
        start = time.perf_counter()
        done = loop.create_future()
        outcome = await protocol.call(call, None, done)
        assert outcome
        assert outcome[1]
        done.set_result(None)
        times.append(time.perf_counter() - start)
    return times


def asyncvarlink_pair(pid: int, count: int) -> list[float]:
    """Run server and client of the other varlink library that passes file descriptors."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/socket"
        server = subprocess.Popen([sys.executable, "-m", "tests.bench.rivals", path])
        try:
            while not os.path.exists(path):
                time.sleep(0.01)
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(path)
            return asyncio.run(_ask_asyncvarlink(path, pid, count))
        finally:
            server.kill()
            server.wait()


if __name__ == "__main__":
    asyncio.run(_serve_asyncvarlink(sys.argv[1]))
