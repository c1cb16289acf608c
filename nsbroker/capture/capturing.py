"""A capture, from the packet socket to the last block of the file."""

import contextlib
import errno
import os
import select
import socket
import sys
import time
from typing import NamedTuple, Self

from nsbroker.capture import EVERY_INTERFACE, pcapng
from nsbroker.capture.conversion import Converter
from nsbroker.capture.filters import NOTHING, make_program
from nsbroker.capture.link_types import BY_HARDWARE, ETHERNET, LOOPBACK
from nsbroker.capture.output import Output
from nsbroker.errors import CommandFailed
from nsbroker.linux import network_interfaces, socket_filter
from nsbroker.linux.packet_ring import RETIRE_MILLISECONDS, PacketRing, receive_from
from nsbroker.version import VERSION

_LOOPBACK_INDEX = 1
# How often it is checked whether the interfaces are still there while no packet comes.
_IDLE_MILLISECONDS = 500
# At most so many blocks are written before it is checked again whether to stop: packets can come faster than they are written.
_BLOCKS_IN_A_ROW = 8


class Statistics(NamedTuple):
    """What came of a capture.  `gone` names the interface that went away and so ended it, or is empty."""

    captured: int
    dropped: int
    gone: str


class Capture:
    """Captures the packets of one interface, or of all interfaces, of the network of a packet socket."""

    def __init__(self, sock: socket.socket, where: str, interface: str, expression: str) -> None:
        """Prepare everything; the kernel collects packets from now on.

        Takes `sock`, also on error: a packet socket of type SOCK_RAW that was made with protocol 0, and so has received nothing.
        `where` names the network in the file and in errors, `interface` is a name or EVERY_INTERFACE, `expression` the filter.
        Raises CommandFailed: for an interface that does not exist or has no link type, a filter that cannot be used, and when the
        kernel lacks memory.
        """
        self._sock = sock
        self._where = where
        self._interface = interface
        self._converter = Converter(sock, where, expression)
        with contextlib.ExitStack() as opened:
            opened.enter_context(sock)
            self._watched, self._hardware_type = self._find()
            program = make_program(expression, self._hardware_type)
            try:
                socket_filter.attach(sock, program)
                self._ring = opened.enter_context(PacketRing(sock))
                # Nothing was received before this, so nothing is in the ring that does not fit the filter.
                receive_from(sock, 0 if interface == EVERY_INTERFACE else next(iter(self._watched)))
            except OSError as error:
                raise CommandFailed(f"cannot capture in {where}: {error.strerror}") from error
            self._opened = opened.pop_all()

    def _find(self) -> tuple[dict[int, str], int | None]:
        """Return the interfaces without which nothing is left to capture, by index, and the hardware type if it is only one."""
        interface = self._interface
        if interface == EVERY_INTERFACE:
            found = {}
            for name in network_interfaces.with_addresses(self._sock):
                with contextlib.suppress(OSError):  # It is gone already.
                    found[network_interfaces.index_of(self._sock, name)] = name
            found.pop(_LOOPBACK_INDEX, None)
            return found, None
        try:
            index = network_interfaces.index_of(self._sock, interface)
            hardware_type = network_interfaces.hardware_type(self._sock, interface)
        except OSError as error:
            there = ", ".join(network_interfaces.names(self._sock))
            raise CommandFailed(f"{self._where} has no interface {interface[:80]!r}: choose one of {there}") from error
        if hardware_type not in BY_HARDWARE:
            raise CommandFailed(
                f"packets of {interface} cannot be captured: no link type is known for its hardware type {hardware_type} (ARPHRD_*)"
            )
        return {index: interface}, hardware_type

    def run(self, output: Output, most: int | None, stop: int) -> Statistics:
        """Write packets to `output` until there are `most`, `stop` (borrowed) can be read, or the interfaces are gone.

        Every block of the ring is written at once: at the latest a tenth of a second after its first packet came.  What came before
        `stop` could be read is still written.  Raises CommandFailed, and BrokenPipeError when the reader of `output` has left.
        """
        start = time.time_ns()
        output.write(pcapng.section_header(f"nsbroker {VERSION}") + self._describe_interfaces())
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.register(stop, select.POLLIN)
        # Without any event, poll(2) still reports the error when the reader of a pipe has left.
        poll.register(output, 0)
        limit = sys.maxsize if most is None else most
        gone = ""
        while self._converter.packets < limit and not gone:
            ready = dict(poll.poll(_IDLE_MILLISECONDS))
            if output.fileno() in ready:
                raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
            self._write_blocks(output, limit)
            if stop in ready:
                self._write_the_rest(output, limit)
                break
            if ready.get(self._sock.fileno(), 0) & select.POLLERR:
                # ENETDOWN: the interface was set down or removed.  Reading the error clears it.
                self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not ready and self._are_gone():
                gone = ", ".join(self._watched.values())
        dropped = self._ring.dropped()
        output.write(self._statistics(start, time.time_ns(), dropped))
        return Statistics(self._converter.packets, dropped, gone)

    def _describe_interfaces(self) -> bytes:
        """Describe the one interface, or lo and those with an address.

        A file without any description cannot be read.  Interfaces without an Ethernet header are described with their first packet,
        because tcpdump reads no file that describes interfaces of different kinds.
        """
        if self._hardware_type is not None:
            (index,) = self._watched
            return self._converter.describe(index, self._hardware_type)
        described = [self._converter.describe(_LOOPBACK_INDEX, LOOPBACK)]
        for index, name in self._watched.items():
            with contextlib.suppress(OSError):  # It is gone already.
                hardware_type = network_interfaces.hardware_type(self._sock, name)
                if BY_HARDWARE.get(hardware_type) is ETHERNET:
                    described.append(self._converter.describe(index, hardware_type))
        return b"".join(described)

    def _write_blocks(self, output: Output, limit: int) -> bool:
        """Write some of the blocks that the kernel has handed over, and return whether there were any."""
        found = False
        for _ in range(_BLOCKS_IN_A_ROW):
            left = limit - self._converter.packets
            block = self._ring.take() if left > 0 else None
            if block is None:
                break
            blocks = self._converter.convert(self._ring.memory, block, left)
            self._ring.give_back()
            output.write(blocks)
            found = True
        return found

    def _write_the_rest(self, output: Output, limit: int) -> None:
        """Let no more packets come, and write those that are in the block that the kernel has not handed over yet."""
        socket_filter.attach(self._sock, NOTHING)
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        while poll.poll(2 * RETIRE_MILLISECONDS) and self._write_blocks(output, limit):
            pass

    def _are_gone(self) -> bool:
        """Return whether there was an interface beside lo, and there is none any more."""
        if not self._watched or any(network_interfaces.exists(self._sock, index) for index in self._watched):
            return False
        return self._interface != EVERY_INTERFACE or len(network_interfaces.with_addresses(self._sock)) < 2

    def _statistics(self, start: int, end: int, dropped: int) -> bytes:
        """Return the blocks with what was captured of each interface.  The kernel counts the drops of all of them together."""
        counts = self._converter.counts
        comment = "packets dropped: on all interfaces together" if len(counts) > 1 else ""
        first = pcapng.interface_statistics(0, start, end, counts[0], dropped, comment)
        others = (pcapng.interface_statistics(number, start, end, counts[number], None) for number in range(1, len(counts)))
        return first + b"".join(others)

    def close(self) -> None:
        """Close the socket, and free the ring."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
