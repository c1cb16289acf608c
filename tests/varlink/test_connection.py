import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbroker.errors import InvalidParameter, ProtocolError
from nsbroker.linux import ancillary, descriptors
from nsbroker.varlink.connection import ClientConnection, IncomingCall, ServerConnection
from nsbroker.varlink.message import Call, encode_call


def receive(data: bytes, fds: list[int] | None = None) -> tuple[ServerConnection, IncomingCall]:
    server = ServerConnection()
    server.receive(data, fds or [])
    call = server.next_call()
    assert call is not None
    return server, call


def nulls(count: int) -> list[int]:
    return [os.open(os.devnull, os.O_RDONLY) for _ in range(count)]


def open_among(fds: list[int]) -> list[int]:
    return [fd for fd in fds if os.path.exists(f"/proc/self/fd/{fd}")]


def test_a_call_and_its_reply_pass_through_both_sides() -> None:
    client = ClientConnection()
    server, call = receive(encode_call("a.b.C", {"x": 1}))
    client.expect()
    client.receive(server.reply(call, {"y": 2}) or b"", [])
    reply = client.next_reply()
    assert reply
    assert (bytes(reply.parameters), reply.error, reply.last) == (b'{"y":2}', None, True)
    assert client.next_reply() is None


def test_oneway_gets_no_reply_not_even_an_error() -> None:
    server, call = receive(encode_call("a.b.C", None, oneway=True))
    assert server.reply(call, None) is None
    assert server.reply(call, {}, error="a.b.Bad") is None


def test_more_gets_replies_until_one_without_continues() -> None:
    client = ClientConnection()
    server, call = receive(encode_call("a.b.C", None, more=True))
    client.expect(more=True)
    for number, continues in ((1, True), (2, True), (3, False)):
        client.receive(server.reply(call, {"n": number}, continues=continues) or b"", [])
        reply = client.next_reply()
        assert reply
        assert reply.last is not continues
    with pytest.raises(RuntimeError, match="twice"):
        server.reply(call, None)


def test_continues_is_allowed_only_for_more_and_never_with_an_error() -> None:
    server, call = receive(b'{"method":"a.B"}\0')
    with pytest.raises(RuntimeError, match="continues"):
        server.reply(call, None, continues=True)
    server, call = receive(b'{"method":"a.B","more":true}\0')
    with pytest.raises(RuntimeError, match="continues"):
        server.reply(call, None, continues=True, error="a.X")


def test_replies_come_in_the_order_of_calls() -> None:
    server, first = receive(b'{"method":"a.B"}\0{"method":"a.C"}\0')
    second = server.next_call()
    assert second
    with pytest.raises(RuntimeError, match="out of turn"):
        server.reply(second, None)
    server.reply(first, None)
    server.reply(second, None)


def test_calls_before_a_fault_are_still_returned() -> None:
    server, call = receive(b'{"method":"a.B"}\0[null]\0')
    assert server.reply(call, None) == b"{}\0"
    with pytest.raises(ProtocolError):
        server.next_call()


@pytest.mark.parametrize(
    ("calls", "replies", "text"),
    [
        ([], b"{}\0", "no call"),
        ([False], b"{}\0{}\0", "no call"),
        ([False], b'{"continues":true}\0', "asked for one"),
    ],
)
def test_a_client_refuses_replies_out_of_order(calls: list[bool], replies: bytes, text: str) -> None:
    client = ClientConnection()
    for more in calls:
        client.expect(more=more)
    client.receive(replies, [])
    with pytest.raises(ProtocolError, match=text):
        [client.next_reply() for _ in range(3)]


BAD_INDICES = st.one_of(
    st.integers(max_value=-1), st.integers(min_value=3), st.booleans(), st.floats(), st.none(), st.text(max_size=3)
)


@given(BAD_INDICES)
def test_only_an_int_in_the_range_is_accepted_as_the_index_of_a_descriptor(index: object) -> None:
    fds = nulls(3)
    call = IncomingCall(Call("a.B"), list(fds))
    with pytest.raises(InvalidParameter, match="where"):
        call.take_fds({"where": index})  # type: ignore[dict-item]  # a wrong type is the point
    assert open_among(fds) == []


@pytest.mark.parametrize("indices", [{}, {"a": 0}, {"a": 0, "b": 0}, {"a": 0, "b": 1, "c": 1}, {"a": 0, "b": 1, "c": 2, "d": 3}])
def test_the_indices_must_use_each_descriptor_exactly_once(indices: dict[str, int]) -> None:
    fds = nulls(3)
    with pytest.raises(InvalidParameter):
        IncomingCall(Call("a.B"), list(fds)).take_fds(indices)
    assert open_among(fds) == []


def test_descriptors_are_taken_in_the_order_of_their_names() -> None:
    fds = nulls(2)
    assert IncomingCall(Call("a.B"), list(fds)).take_fds({"a": 1, "b": 0}) == [fds[1], fds[0]]
    for fd in fds:
        os.close(fd)


def test_closing_the_connection_closes_fds_that_were_not_taken() -> None:
    fds = nulls(2)
    server, _ = receive(b'{"method":"a.B"}\0', fds[:1])
    server.receive(b'{"meth', fds[1:])
    server.close()
    assert open_among(fds) == []


def test_a_bad_message_closes_its_descriptors() -> None:
    fds = nulls(1)
    server = ServerConnection()
    server.receive(b"[]\0", list(fds))
    with pytest.raises(ProtocolError):
        server.next_call()
    client = ClientConnection()
    more = nulls(1)
    client.receive(b"{}\0", list(more))
    with pytest.raises(ProtocolError):
        client.next_reply()
    assert open_among(fds + more) == []


@pytest.mark.parametrize("sizes", [(0,), (1, 0), (0, 1), (2, 0, 1), (0, 0, 2), (3, 2, 1)])
@pytest.mark.parametrize("buffer", [7, 30, 1000])
def test_a_client_finds_the_message_of_each_descriptor_in_glued_pieces(sizes: tuple[int, ...], buffer: int) -> None:
    """The kernel glues what was sent without fds to the next message with fds."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    client = ClientConnection()
    with left, right:
        for number, size in enumerate(sizes):
            fds = nulls(size)
            ancillary.send(left, b'{"parameters":{"number":%d}}\0' % number, fds)
            descriptors.close_all(fds)
            client.expect()
        left.shutdown(socket.SHUT_WR)
        space = memoryview(bytearray(buffer))
        while True:
            came: list[int] = []
            if not (count := ancillary.receive_owned(right, space, came)):
                break
            client.receive(bytes(space[:count]), came)
    replies = [client.next_reply() for _ in sizes]
    found = [(bytes(reply.parameters), len(reply.fds)) for reply in replies if reply]
    assert found == [(b'{"number":%d}' % number, size) for number, size in enumerate(sizes)]
    for reply in replies:
        assert reply
        reply.close()
    assert client.next_reply() is None
