"""Capture a million packets at 100000 a second, as a user without privilege, and see that none is missing.

usage: python -m tests.capture.million COUNT RATE

The packets come through a veth from another network of this machine, so the sender takes a processor, too.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.capture import generator, reader
from tests.capture.wire import FEED, INSIDE, ip, wire
from tests.world import ALICE, Daemon, eventually, named_network, start_command

_TICKS = os.sysconf("SC_CLK_TCK")


def main(count: int, rate: float) -> int:
    """Capture, print what came of it, and return the exit code."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder, Daemon(Path(folder)) as daemon, named_network("blue"):
        daemon.allow("alice", who=[f"user:{ALICE}"], targets=["name:blue"], sockets=["packet:raw"])
        path = Path(folder) / "file"
        path.touch()
        os.chown(path, ALICE, ALICE)
        Path(folder).chmod(0o755)
        with wire("blue"):
            return _capture(daemon, path, count, rate)


def _capture(daemon: Daemon, path: Path, count: int, rate: float) -> int:
    command = ("capture", "name:blue", "-i", INSIDE, "-w", str(path))
    with start_command(*command, uid=ALICE, address=daemon.address) as process:
        eventually(lambda: path.stat().st_size > 0, "the capture has begun")
        before, idle = _received(), _seconds(process.pid)
        generate = [sys.executable, "-m", "tests.capture.generator", FEED, str(count), str(rate)]
        taken = float(subprocess.run(generate, stdout=subprocess.PIPE, check=True).stdout)
        received = _received() - before
        process.send_signal(signal.SIGINT)
        # The kernel still knows its processor time until it is waited for.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        used = _seconds(process.pid) - idle
        _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    text = path.read_bytes()
    found = reader.read(text)
    numbers = {generator.number_of(packet.data) for packet in found.packets}
    by_tcpdump = int(reader.tcpdump(text, "--count")[0].split()[0])
    said = [int(number) for number in re.findall(r"[0-9]+", errors.decode())]
    print(f"sent          {count} packets of {generator.SIZE} bytes in {taken:.2f} s: {count / taken:.0f} a second")
    print(f"interface     {received} packets received")
    print(f"captured      {len(found.packets)} packets, {said[1]} dropped by the kernel, {len(text) / 1e6:.0f} MB")
    print(f"tcpdump -r    {by_tcpdump} packets")
    print(f"CPU           {used:.2f} s: {used / taken:.0%} of a processor, {used / len(found.packets) * 1e6:.2f} µs a packet")
    right = (
        said == [count, 0]
        and received == len(found.packets) == by_tcpdump == count
        and numbers == set(range(count))
        and found.statistics == {0: (count, 0)}
    )
    print("passed" if right else f"FAILED: {errors.decode()}")
    return 0 if right else 1


def _received() -> int:
    [link] = json.loads(ip("-n", "blue", "-statistics", "-json", "link", "show", INSIDE))
    return int(link["stats64"]["rx"]["packets"])


def _seconds(pid: int) -> float:
    """Return the processor time of a process: user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2])))
