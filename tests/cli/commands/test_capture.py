"""`nsbroker capture`, run by a user whom a rule allows packet sockets, in a real network."""

import fcntl
import io
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Self

import pytest

from nsbroker.namespace import Namespace
from nsbroker.version import VERSION
from tests.capture import generator, reader
from tests.capture.wire import FEED, INSIDE, ip, needs_libpcap
from tests.cli.conftest import one_line
from tests.world import ALICE, BOB, PATIENCE, Daemon, eventually, run_command, start_command

pytestmark = pytest.mark.root

_TUNSETIFF = 0x400454CA
_IFF_TUN_NO_PI = 0x1001
IP_PACKET = bytes.fromhex("4500001d 00010000 4011 0000 0a000001 0a000002 0007 0009 0009 0000 78")

WRONG: list[tuple[list[str], int, str]] = [
    (["name:blue", "-c", "0"], 2, "'0' is not a number of packets"),
    (["name:blue", "-c", "-1"], 2, "'-1' is not a number of packets"),
    (["name:blue", "-c", "9" * 5000], 2, "is not a number of packets"),
    (["name:blue", "-c"], 2, "expected one argument"),
    (["bleu"], 2, "bleu"),
    (["name:blue", "vlan", "5"], 2, "filter when you read the file"),
    (["name:blue", "-w", "/nowhere/file"], 1, "cannot write to /nowhere/file: No such file or directory"),
    (["name:blue", "-w", "/dev/full"], 1, "cannot write to /dev/full: No space left on device"),
    (["name:green"], 1, "permission denied"),
]
"""Command lines, the exit code, and what the error says."""


class Running:
    """`nsbroker capture name:blue`, run by ALICE, once it captures.  Standard output is read until `end`."""

    def __init__(self, daemon: Daemon, *arguments: str) -> None:
        self.process = start_command("capture", "name:blue", *arguments, uid=ALICE, address=daemon.address)
        assert self.process.stdout is not None
        # The beginning of the file is written when the capture has begun.
        self.output = os.read(self.process.stdout.fileno(), 65536)

    def numbers(self) -> list[int | None]:
        """Return the numbers of the frames that are written by now."""
        assert self.process.stdout is not None
        while select.select([self.process.stdout], [], [], 0)[0] and (piece := os.read(self.process.stdout.fileno(), 65536)):
            self.output += piece
        return numbers(reader.whole(self.output))

    def wait_for(self, count: int) -> None:
        """Wait until that many packets are written."""
        eventually(lambda: len(self.numbers()) == count, f"{count} packets are written")

    def end(self, number: int = signal.SIGINT) -> tuple[int, str]:
        """Send a signal, and return the exit code and what is on standard error.  The rest of the output is in `output`."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> tuple[int, str]:
        """Wait until it ends, and return as `end` does."""
        output, errors = self.process.communicate(timeout=2 * PATIENCE)
        self.output += output
        return self.process.returncode, errors.decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        # This closes the pipes.
        self.process.__exit__(None, None, None)


def numbers(text: bytes) -> list[int | None]:
    """Return the numbers of the frames in a file; None for other packets."""
    return [generator.number_of(packet.data) for packet in reader.read(text).packets]


def send(*frames: bytes) -> None:
    """Send frames through the wire."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.bind((FEED, 0))
        for frame in frames:
            sock.send(frame)


def counted(name: str) -> int:
    """Return how many packets an interface of name:blue has received."""
    rows = ip("netns", "exec", "blue", "cat", "/proc/net/dev").splitlines()
    return next(int(row.split()[2]) for row in rows if row.split()[0] == f"{name}:")


def test_ten_thousand_packets_within_a_tenth_of_a_second_are_all_written(daemon: Daemon, feed: None) -> None:
    count = 10_000
    with Running(daemon, "-i", INSIDE) as running:
        before, start = counted(INSIDE), time.time_ns()
        # `end` reads meanwhile: standard output is a pipe.
        generate = [sys.executable, "-m", "tests.capture.generator", FEED, str(count), "100000"]
        sender = subprocess.Popen(generate, stdout=subprocess.DEVNULL)
        running.wait_for(count)
        assert sender.wait(PATIENCE) == 0
        code, errors = running.end()
        assert (code, errors) == (0, f"nsbroker: {count} packets captured, 0 dropped by the kernel\n")
        assert counted(INSIDE) - before == count
    found = reader.read(running.output)
    assert found.application == f"nsbroker {VERSION}"
    assert found.interfaces == [reader.Interface(1, 262144, INSIDE, "name:blue", "")]
    # The processors that the sender ran on may have delivered them in another order.
    assert sorted(filter(None, numbers(running.output))) == list(range(1, count))
    assert {(packet.length, len(packet.data)) for packet in found.packets} == {(generator.SIZE, generator.SIZE)}
    assert all(start <= packet.time <= time.time_ns() for packet in found.packets)
    assert any(packet.time % 1000 for packet in found.packets)
    assert found.statistics == {0: (count, 0)}


def test_tcpdump_reads_it_while_it_is_written(daemon: Daemon, feed: None) -> None:
    with Running(daemon) as running:
        for number in range(1, 4):
            send(generator.frame(number))
            running.wait_for(number)
            assert reader.tcpdump(running.output, "--count")[0].split()[0] == str(number)
        assert running.process.poll() is None


@needs_libpcap
def test_a_filter_chooses_what_is_written(daemon: Daemon, feed: None) -> None:
    frame = bytes(12) + b"\x08\0" + IP_PACKET
    with Running(daemon, "udp", "-i", INSIDE, "port", "7") as running:
        send(generator.frame(0), frame, generator.frame(1), frame.replace(b"\0\x07\0\x09", b"\0\x08\0\x09"), frame)
        assert running.end()[0] == 0
    found = reader.read(running.output)
    assert [packet.data for packet in found.packets] == [frame, frame]
    assert found.interfaces[0].filter == "udp port 7"
    assert found.statistics == {0: (2, 0)}


def test_what_came_before_the_signal_is_written(daemon: Daemon, feed: None) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        with Running(daemon) as running:
            send(generator.frame(7))
            assert running.end(number) == (0, "nsbroker: 1 packet captured, 0 dropped by the kernel\n")
        assert numbers(running.output) == [7]


@needs_libpcap
def test_each_interface_has_its_own_name_and_kind(daemon: Daemon, feed: None) -> None:
    if not Path("/dev/net/tun").exists():
        pytest.skip("there is no /dev/net/tun: no interface without an Ethernet header was captured")
    with Namespace.from_name("blue", "net") as network:
        tun = network.call(open_tun)
        loopback = network.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
    with tun, loopback, Running(daemon, "udp") as running:
        loopback.bind(("127.0.0.1", 0))
        loopback.sendto(b"to itself", loopback.getsockname())
        send(bytes(12) + b"\x08\0" + IP_PACKET)
        tun.write(IP_PACKET)
        assert running.end()[0] == 0
    found = reader.read(running.output)
    by_name = {packet.interface.name: packet for packet in found.packets}
    # A packet of lo is sent and received, and written once.
    assert len(found.packets) == len(by_name) == 3
    assert by_name["lo"].data.endswith(b"to itself")
    assert (by_name["tun0"].interface.link_type, by_name["tun0"].data) == (101, IP_PACKET)
    assert (by_name[INSIDE].interface.link_type, by_name[INSIDE].data[14:]) == (1, IP_PACKET)
    assert {one.description for one in found.interfaces} == {"name:blue"}


def open_tun() -> io.FileIO:
    """Make the interface tun0, whose packets have no link-level header, in the network of this thread, and set it up."""
    tun = io.FileIO("/dev/net/tun", "r+")
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", b"tun0", _IFF_TUN_NO_PI))
    ip("link", "set", "tun0", "up")
    return tun


def test_vlan_tags_are_as_they_were_sent(daemon: Daemon, feed: None) -> None:
    plain = generator.frame(1)
    tagged = plain[:12] + b"\x81\0\x60\x05" + plain[12:]
    with Running(daemon, "-i", INSIDE) as running:
        send(tagged, plain)
        assert running.end()[0] == 0
    assert [packet.data for packet in reader.read(running.output).packets] == [tagged, plain]
    assert "vlan 5" in reader.tcpdump(running.output, "-e")[0]


def test_it_ends_after_the_packets_that_are_wanted(daemon: Daemon, feed: None, folder: Path) -> None:
    path = folder / "file"
    command = ("capture", "name:blue", "-c", "3", "-w", str(path))
    with start_command(*command, uid=ALICE, address=daemon.address) as process:
        eventually(lambda: path.exists() and path.stat().st_size > 0, "the capture has begun")
        send(*map(generator.frame, range(10)))
        output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output) == (0, b"")
    assert errors.decode() == "nsbroker: 3 packets captured, 0 dropped by the kernel\n"
    assert numbers(path.read_bytes()) == [0, 1, 2]
    # Nobody else can read the packets.
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_interface_that_does_not_exist_is_named_with_those_that_do(daemon: Daemon, feed: None) -> None:
    done = run_command("capture", "name:blue", "-i", "eth9", uid=ALICE, address=daemon.address)
    assert f"name:blue has no interface 'eth9': choose one of lo, {INSIDE}" in one_line(done, 1)


@needs_libpcap
@pytest.mark.parametrize("options", [["-i", INSIDE], []], ids=["one", "all"])
def test_it_ends_when_the_interface_goes_away(daemon: Daemon, feed: None, options: list[str]) -> None:
    ip("-n", "blue", "address", "add", "10.9.8.7/24", "dev", INSIDE)
    with Running(daemon, *options, "ether proto 0x88b5") as running:
        send(generator.frame(1))
        running.wait_for(1)
        ip("link", "delete", FEED)
        code, errors = running.wait()
    assert code == 1
    assert errors.splitlines() == [
        "nsbroker: 1 packet captured, 0 dropped by the kernel",
        f"nsbroker: the capture has ended, because {INSIDE} of name:blue went away: what was captured before is written",
    ]
    assert 1 in [received for received, _ in reader.read(running.output).statistics.values()]


@needs_libpcap
def test_an_interface_that_is_set_down_and_up_again_is_still_captured(daemon: Daemon, feed: None) -> None:
    with Running(daemon, "-i", INSIDE, "ether proto 0x88b5") as running:
        for number in range(1, 4):
            ip("-n", "blue", "link", "set", INSIDE, "down")
            ip("-n", "blue", "link", "set", INSIDE, "up")
            eventually(lambda: arrives(running, number), "the packet is written")  # noqa: B023 - it is called at once
        assert running.end()[0] == 0


def arrives(running: Running, number: int) -> bool:
    """Send a frame, which is lost as long as the wire is not up, and return whether it is written."""
    send(generator.frame(number))
    return number in running.numbers()


def test_a_full_disk_is_one_line_and_the_file_is_whole(daemon: Daemon, feed: None, folder: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=777", "tmpfs", str(folder)], check=True)
    try:
        path = folder / "file"
        with start_command("capture", "name:blue", "-w", str(path), uid=ALICE, address=daemon.address) as process:
            eventually(lambda: path.exists() and path.stat().st_size > 0, "the capture has begun")
            send(*map(generator.frame, range(2000)))
            _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 1
        assert errors.decode() == (
            f"nsbroker: cannot write to {path}: No space left on device; what was written before can be read\n"
        )
        written = numbers(path.read_bytes())
        assert len(written) > 100
        assert written == list(range(len(written)))
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_reader_that_leaves_ends_it_quietly(daemon: Daemon, feed: None) -> None:
    with Running(daemon) as running:
        assert running.process.stdout is not None
        assert running.process.stderr is not None
        # No packet comes that it would fail to write.
        running.process.stdout.close()
        assert running.process.stderr.read() == b""
        assert running.process.wait(PATIENCE) == 0


def test_the_second_signal_ends_it_when_the_reader_does_not_read(daemon: Daemon, feed: None) -> None:
    with Running(daemon) as running:
        pipe = running.process.stdout
        assert pipe is not None
        send(*map(generator.frame, range(2000)))
        eventually(lambda: int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder) > 60000, "the pipe is full")

        def ends() -> bool:
            running.process.send_signal(signal.SIGINT)
            return running.process.poll() is not None

        eventually(ends, "it ends")
        assert running.process.returncode == -signal.SIGINT


def test_what_no_rule_allows_is_refused_with_the_rule_that_is_missing(daemon: Daemon, feed: None, folder: Path) -> None:
    path = folder / "file"
    path.write_text("another capture")
    line = one_line(run_command("capture", "name:blue", "-w", str(path), uid=BOB, address=daemon.address), 1)
    assert "open a socket packet:raw in name:blue: permission denied" in line
    assert 'a rule for name:blue with sockets = ["packet:raw"]' in line
    assert path.read_text() == "another capture"


def test_what_cannot_be_done_is_one_line(daemon: Daemon, feed: None) -> None:
    for arguments, code, words in WRONG:
        assert words in one_line(run_command("capture", *arguments, uid=ALICE, address=daemon.address), code)


@needs_libpcap
def test_a_wrong_filter_is_wrong_usage(daemon: Daemon, feed: None) -> None:
    done = run_command("capture", "name:blue", "tcp", "prot", "80", uid=ALICE, address=daemon.address)
    assert "the filter 'tcp prot 80' cannot be used" in one_line(done, 2)


def test_a_terminal_gets_no_binary_data(daemon: Daemon, feed: None) -> None:
    ours, theirs = os.openpty()
    try:
        command = [sys.executable, "-m", "nsbroker", "capture", "name:blue"]
        done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, text=True, check=False)
        os.set_blocking(ours, False)
        with pytest.raises(BlockingIOError):
            os.read(ours, 1)
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 2
    assert "write it to a file with -w FILE" in done.stderr
    assert "| tcpdump -nr -" in done.stderr
