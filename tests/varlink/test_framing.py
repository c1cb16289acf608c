import os
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbroker.errors import ProtocolError
from nsbroker.linux.descriptors import is_open
from nsbroker.varlink.framing import MESSAGE_MAX, Frame, Inbox


def drain(inbox: Inbox) -> list[Frame]:
    frames = []
    while (frame := inbox.next_frame()) is not None:
        frames.append(frame)
    return frames


def null() -> int:
    return os.open(os.devnull, os.O_RDONLY)


@given(st.lists(st.binary(max_size=50).filter(lambda data: b"\0" not in data)), st.data())
def test_the_messages_do_not_depend_on_how_the_stream_is_cut(messages: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(message + b"\0" for message in messages)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)))) | {0, len(stream)})
    inbox = Inbox()
    found = []
    for start, end in pairwise(cuts):
        inbox.feed(stream[start:end], [])
        found += [frame.data for frame in drain(inbox)]
    assert found == messages
    assert not inbox.started


def test_fds_belong_to_the_message_whose_first_byte_they_came_with() -> None:
    inbox = Inbox()
    fd = null()
    inbox.feed(b"fir", [fd])
    assert inbox.started
    inbox.feed(b"st\0second\0", [])
    assert drain(inbox) == [Frame(b"first", [fd]), Frame(b"second", [])]
    os.close(fd)


def test_fds_in_the_middle_of_a_message_are_a_fault_and_closed() -> None:
    inbox = Inbox()
    fd = null()
    inbox.feed(b"fir", [])
    inbox.feed(b"st\0", [fd])
    assert not is_open(fd)
    with pytest.raises(ProtocolError, match="in the middle"):
        inbox.next_frame()


@pytest.mark.parametrize("cut", [1, MESSAGE_MAX // 2, MESSAGE_MAX])
def test_a_message_of_the_greatest_length_passes_and_one_more_byte_does_not(cut: int) -> None:
    whole = b"x" * MESSAGE_MAX
    inbox = Inbox()
    inbox.feed(whole[:cut], [])
    inbox.feed(whole[cut:] + b"\0", [])
    assert drain(inbox) == [Frame(whole, [])]
    inbox.feed(whole[:cut], [])
    inbox.feed(whole[cut:] + b"x", [])
    with pytest.raises(ProtocolError, match="longer than 65536"):
        inbox.next_frame()


def test_thousands_of_messages_in_one_piece_are_returned_one_by_one_and_leave_nothing() -> None:
    inbox = Inbox()
    inbox.feed(b"{}\0" * 20_000, [])
    assert inbox.ready
    assert inbox.next_frame() == Frame(b"{}", [])
    assert len(drain(inbox)) == 19_999
    assert inbox._data == b""
    assert not inbox.ready


def test_complete_messages_before_a_fault_are_still_returned() -> None:
    inbox = Inbox()
    inbox.feed(b"good\0" + b"x" * (MESSAGE_MAX + 1), [])
    assert inbox.next_frame() == Frame(b"good", [])
    with pytest.raises(ProtocolError):
        inbox.next_frame()


def test_after_a_fault_new_data_is_dropped_and_its_fds_are_closed() -> None:
    inbox = Inbox()
    inbox.feed(b"x" * (MESSAGE_MAX + 1), [])
    fd = null()
    inbox.feed(b"good\0", [fd])
    assert not is_open(fd)
    with pytest.raises(ProtocolError):
        inbox.next_frame()


def test_closing_closes_fds_that_were_not_returned() -> None:
    inbox = Inbox()
    whole, part = null(), null()
    inbox.feed(b"whole\0", [whole])
    inbox.feed(b"part", [part])
    inbox.close()
    assert not is_open(whole)
    assert not is_open(part)
