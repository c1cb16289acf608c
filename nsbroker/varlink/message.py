"""Encoding and decoding single messages: calls and replies."""

import re

import msgspec
from msgspec import Raw, Struct

from nsbroker.errors import ProtocolError
from nsbroker.varlink.framing import END, MESSAGE_MAX

NESTING_MAX = 16
_EMPTY = (b"", b"null", b"{}")
# The quantifier is possessive, and a string may end with the data instead of a quote.  This way the search reads every byte
# once, whatever a client sends.
_BRACKETS_AND_STRINGS = re.compile(rb'(?s)"(?:[^"\\]|\\.)*+"?|[][{}]')


class Call(Struct, omit_defaults=True, forbid_unknown_fields=True):
    """A received call.  `parameters` is not decoded yet, because its type depends on the method."""

    method: str
    parameters: Raw = Raw()
    oneway: bool = False
    more: bool = False
    upgrade: bool = False


class Reply(Struct, omit_defaults=True):
    """A received reply.  `parameters` is not decoded yet."""

    parameters: Raw = Raw()
    continues: bool = False
    error: str | None = None


class _OutgoingReply(Struct, omit_defaults=True):
    """A reply to send.  Its parameters are still an object, so that one pass encodes both."""

    parameters: object = None
    continues: bool = False
    error: str | None = None


class _OutgoingCall(Struct, omit_defaults=True):
    """A call to send.  Its parameters are still an object, so that one pass encodes both."""

    method: str
    parameters: object = None
    oneway: bool = False
    more: bool = False


_calls = msgspec.json.Decoder(Call)
_replies = msgspec.json.Decoder(Reply)
_objects = msgspec.json.Decoder(dict[str, Raw])
_encoder = msgspec.json.Encoder()


def encode_call(method: str, parameters: object, *, oneway: bool = False, more: bool = False) -> bytes:
    """Encode a call, including its NUL.  Raises ProtocolError when it is too long."""
    return _check_length(_encoder.encode(_OutgoingCall(method, parameters, oneway, more)) + END)


def encode_reply(parameters: object, *, continues: bool = False, error: str | None = None) -> bytes:
    """Encode a reply, including its NUL."""
    return _encoder.encode(_OutgoingReply(parameters, continues, error)) + END


def decode_call(data: bytes) -> Call:
    """Decode a call.  Raises ProtocolError, after which the caller must close the connection."""
    # For nearly all messages it is enough to count the brackets, which is fast (in C).
    if data.count(b"[") + data.count(b"{") > NESTING_MAX:
        _check_nesting(data)
    try:
        try:
            call = _calls.decode(data)
        except msgspec.ValidationError:
            call = _calls.decode(_strip_vendor_keys(data))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"not a call: {error}") from error
    if call.oneway + call.more + call.upgrade > 1:
        raise ProtocolError("a call has more than one of oneway, more and upgrade")
    call.parameters = _normalize_parameters(call.parameters)
    return call


def decode_reply(data: bytes) -> Reply:
    """Decode a reply; unknown keys are ignored.  Raises ProtocolError."""
    try:
        reply = _replies.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"not a reply: {error}") from error
    if reply.continues and reply.error is not None:
        raise ProtocolError("a reply has both an error and `continues`")
    reply.parameters = _normalize_parameters(reply.parameters)
    return reply


def _check_length(data: bytes) -> bytes:
    if len(data) > MESSAGE_MAX + len(END):
        raise ProtocolError(f"a message would be longer than {MESSAGE_MAX} bytes")
    return data


def _normalize_parameters(parameters: Raw) -> Raw:
    """Return absent or null parameters as an empty object.  Raises ProtocolError for anything else that is not an object."""
    text = bytes(parameters)
    if text in _EMPTY:
        return Raw(b"{}")
    if text[:1] != b"{":
        raise ProtocolError("the parameters are not an object")
    return parameters


def _strip_vendor_keys(data: bytes) -> bytes:
    """Return the call without keys that contain a dot.  Vendors may add such keys, and receivers ignore them."""
    return _encoder.encode({key: value for key, value in _objects.decode(data).items() if "." not in key})


def _check_nesting(data: bytes) -> None:
    depth = 0
    for part in _BRACKETS_AND_STRINGS.findall(data):
        if part in b"[{":
            depth += 1
            if depth > NESTING_MAX:
                raise ProtocolError(f"a message is nested deeper than {NESTING_MAX}")
        elif part in b"]}":
            depth -= 1
