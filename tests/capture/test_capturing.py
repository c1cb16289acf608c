"""When a capture ends.  `tests/cli/commands/test_capture.py` captures in real networks."""

import socket
import tempfile

import pytest

from nsbroker.capture.capturing import Capture
from nsbroker.capture.output import Output
from nsbroker.linux import socket_filter
from nsbroker.linux.packet_ring import BLOCKS, Block


class FloodedRing:
    """A ring in which a block is always full, until the filter lets no more packets come.  Then all of its blocks are full."""

    memory = b""

    def __init__(self) -> None:
        self.taken = 0
        self.left: int | None = None

    def end(self, *_: object) -> None:
        self.left = BLOCKS

    def take(self) -> Block | None:
        assert self.taken < 10 * BLOCKS, "it never looks whether to stop"
        return None if self.left == 0 else Block(0, 1)

    def give_back(self) -> None:
        self.taken += 1
        if self.left is not None:
            self.left -= 1

    def dropped(self) -> int:
        return 7


class Counter:
    """Converts each block to one byte."""

    def __init__(self) -> None:
        self.packets = 0
        self.counts = [0]

    def describe(self, *_: object) -> bytes:
        return b""

    def convert(self, *_: object) -> bytes:
        self.packets += 1
        self.counts[0] += 1
        return b"."


def test_it_stops_while_packets_come_faster_than_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """How fast a machine can write is unknown, so the ring is made up."""
    ring, converter = FloodedRing(), Counter()
    monkeypatch.setattr(socket_filter, "attach", ring.end)
    ours, others = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    stop, ours_to_stop = socket.socketpair()
    with ours, others, stop, ours_to_stop, tempfile.TemporaryFile() as file:
        others.send(b"packets can be read")
        ours_to_stop.send(b"stop")
        capture = Capture.__new__(Capture)
        made_up = {"_sock": ours, "_ring": ring, "_converter": converter, "_watched": {2: "eth0"}, "_hardware_type": 1}
        vars(capture).update(made_up)
        found = capture.run(Output(file.fileno(), "a file"), None, stop.fileno())
    # What was in the ring is still written.
    assert ring.left == 0
    assert (found.captured, found.dropped, found.gone) == (ring.taken, 7, "")
