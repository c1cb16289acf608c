import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbroker.errors import ProtocolError
from nsbroker.varlink.message import decode_call, decode_reply, encode_call, encode_reply

pytestmark = pytest.mark.once


def test_a_call_comes_back_as_it_was_sent() -> None:
    data = encode_call("a.b.C", {"x": [1, None, "ä"]}, more=True)
    assert data == '{"method":"a.b.C","parameters":{"x":[1,null,"ä"]},"more":true}\0'.encode()
    call = decode_call(data[:-1])
    assert (call.method, bytes(call.parameters), call.more, call.oneway) == ("a.b.C", '{"x":[1,null,"ä"]}'.encode(), True, False)


@pytest.mark.parametrize("parameters", [b"", b',"parameters":null', b',"parameters":{}'])
def test_absent_null_and_empty_parameters_mean_the_same(parameters: bytes) -> None:
    assert bytes(decode_call(b'{"method":"a.b.C"%s}' % parameters).parameters) == b"{}"


def test_vendor_keys_are_ignored_beside_valid_ones() -> None:
    call = decode_call(b'{"method":"a.b.C","com.example.trace":{"deep":[1]},"more":true}')
    assert (call.method, call.more) == ("a.b.C", True)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[]", b"null",
        b"[null]", b"1", b'"x"', b"{}", b'{"method":1}', b'{"method":null}',
        b'{"method":"a.B","unknown":1}',
        b'{"method":"a.B","more":1}', b'{"method":"a.B","more":"true"}', b'{"method":"a.B","oneway":null}',
        b'{"method":"a.B","more":true,"oneway":true}', b'{"method":"a.B","more":true,"upgrade":true}',
        b'{"method":"a.B","parameters":[]}', b'{"method":"a.B","parameters":1}', b'{"method":"a.B","parameters":"{}"}',
        b'{"method":"a.B"} x', b'{"method":"\xff"}', b"\xff\xfe",
        b'{"method":"a.B","parameters":{"x":' + b"[" * 1000 + b"]" * 1000 + b"}}",
        b'{"method":"a.B","parameters":{"x":' + b"[" * 16 + b"]" * 16 + b"}}", b"[" * 60000,
    ],
)  # fmt: skip
def test_data_that_is_no_call_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_call(data)


def test_nesting_of_16_passes_and_brackets_in_strings_do_not_count() -> None:
    decode_call(b'{"method":"a.B","parameters":{"x":' + b"[" * 14 + b"]" * 14 + b"}}")
    decode_call(b'{"method":"a.B","parameters":{"x":"\\"' + b"[{" * 1000 + b'"}}')
    decode_call(b'{"method":"a.B","parameters":{"x":[' + b",".join([b"[]"] * 100) + b"]}}")


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_protocol_error(data: bytes) -> None:
    for decode in (decode_call, decode_reply):
        try:
            decode(data)
        except ProtocolError:
            continue


def test_a_call_that_is_too_long_is_not_encoded() -> None:
    with pytest.raises(ProtocolError, match="longer than 65536"):
        encode_call("a.B", {"x": "y" * 65536})


def test_replies_leave_out_unset_keys_and_ignore_unknown_ones() -> None:
    assert encode_reply(None) == b"{}\0"
    assert encode_reply({"x": 1}, continues=True) == b'{"parameters":{"x":1},"continues":true}\0'
    assert encode_reply({}, error="a.B") == b'{"parameters":{},"error":"a.B"}\0'
    reply = decode_reply(b'{"parameters":{"x":1},"continues":true,"unknown":1}')
    assert (bytes(reply.parameters), reply.continues, reply.error) == (b'{"x":1}', True, None)


def test_a_reply_with_error_and_continues_is_refused() -> None:
    with pytest.raises(ProtocolError, match="both"):
        decode_reply(b'{"error":"a.B","continues":true}')
