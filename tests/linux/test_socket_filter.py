"""Programs that decide what a socket receives."""

import socket

import pytest

from nsbroker.linux.socket_filter import Instruction, attach

NOTHING = [Instruction(0x06, 0, 0, 0)]
# Load the first byte of the payload, behind the header of UDP, and accept it if it is 'y'.
YES_ALONE = [Instruction(0x30, 0, 0, 8), Instruction(0x15, 0, 1, ord("y")), Instruction(0x06, 0, 0, 65535), *NOTHING]


def test_a_socket_receives_only_what_the_program_accepts() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        receiver.bind(("127.0.0.1", 0))
        receiver.setblocking(False)

        def ask(*words: bytes) -> list[bytes]:
            for word in words:
                sender.sendto(word, receiver.getsockname())
            found = []
            try:
                # A packet through lo has arrived, or was refused, before sendto() returns.
                while True:
                    found.append(receiver.recv(10))
            except BlockingIOError:
                return found

        attach(receiver, YES_ALONE)
        assert ask(b"yes", b"no", b"y") == [b"yes", b"y"]
        attach(receiver, NOTHING)
        assert ask(b"yes", b"no") == []


@pytest.mark.parametrize("program", [[], [Instruction(0x05, 0, 0, 7)], [Instruction(0x15, 9, 9, 0), *NOTHING], NOTHING * 4097])
def test_a_wrong_program_is_refused(program: list[Instruction]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, pytest.raises(OSError, match="Invalid argument"):
        attach(sock, program)
