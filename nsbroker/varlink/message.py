"""One message: reading and writing calls and replies."""

import re

import msgspec
from msgspec import Raw, Struct

from nsbroker.errors import ProtocolError
from nsbroker.varlink.framing import END, MESSAGE_MAX

NESTING_MAX = 16
_NOTHING = (b"", b"null", b"{}")
# Possessive, and a string may end with the data: every byte is looked at once, whatever a client writes.
_BRACKETS_AND_STRINGS = re.compile(rb'(?s)"(?:[^"\\]|\\.)*+"?|[][{}]')


class Call(Struct, omit_defaults=True, forbid_unknown_fields=True):
    """A call as the protocol has it.  `parameters` is not yet read: its type hangs on the method."""

    method: str
    parameters: Raw = Raw()
    oneway: bool = False
    more: bool = False
    upgrade: bool = False


class Reply(Struct, omit_defaults=True):
    """A reply as the protocol has it."""

    parameters: Raw = Raw()
    continues: bool = False
    error: str | None = None


class _Answer(Struct, omit_defaults=True):
    """A reply on its way out, with its parameters still an object: one pass writes both."""

    parameters: object = None
    continues: bool = False
    error: str | None = None


class _Question(Struct, omit_defaults=True):
    method: str
    parameters: object = None
    oneway: bool = False
    more: bool = False


_calls = msgspec.json.Decoder(Call)
_replies = msgspec.json.Decoder(Reply)
_objects = msgspec.json.Decoder(dict[str, Raw])
_encoder = msgspec.json.Encoder()


def encode_call(method: str, parameters: object, *, oneway: bool = False, more: bool = False) -> bytes:
    """A call as bytes, its NUL included.  Raises ProtocolError when it is too long to send."""
    return _sized(_encoder.encode(_Question(method, parameters, oneway, more)) + END)


def encode_reply(parameters: object, *, continues: bool = False, error: str | None = None) -> bytes:
    """A reply as bytes, its NUL included."""
    return _encoder.encode(_Answer(parameters, continues, error)) + END


def decode_call(data: bytes) -> Call:
    """Read a call.  Raises ProtocolError, on which the connection is to be closed."""
    _check_nesting(data)
    try:
        try:
            call = _calls.decode(data)
        except msgspec.ValidationError:
            call = _calls.decode(_without_vendor_keys(data))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"not a call: {error}") from error
    if call.oneway + call.more + call.upgrade > 1:
        raise ProtocolError("a call has more than one of oneway, more and upgrade")
    call.parameters = _checked(call.parameters)
    return call


def decode_reply(data: bytes) -> Reply:
    """Read a reply; unknown keys are ignored.  Raises ProtocolError."""
    try:
        reply = _replies.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"not a reply: {error}") from error
    if reply.continues and reply.error is not None:
        raise ProtocolError("a reply has both an error and `continues`")
    reply.parameters = _checked(reply.parameters)
    return reply


def _sized(data: bytes) -> bytes:
    if len(data) > MESSAGE_MAX + len(END):
        raise ProtocolError(f"a message would be longer than {MESSAGE_MAX} bytes")
    return data


def _checked(parameters: Raw) -> Raw:
    text = bytes(parameters)
    if text in _NOTHING:
        return Raw(b"{}")
    if text[:1] != b"{":
        raise ProtocolError("the parameters are not an object")
    return parameters


def _without_vendor_keys(data: bytes) -> bytes:
    """The call without keys that contain a dot, which are vendors' own and to be ignored."""
    return _encoder.encode({key: value for key, value in _objects.decode(data).items() if "." not in key})


def _check_nesting(data: bytes) -> None:
    # Counting brackets settles nearly all messages in two passes in C; only the rest is walked.
    if data.count(b"[") + data.count(b"{") <= NESTING_MAX:
        return
    depth = 0
    for part in _BRACKETS_AND_STRINGS.findall(data):
        if part in b"[{":
            depth += 1
            if depth > NESTING_MAX:
                raise ProtocolError(f"a message is nested deeper than {NESTING_MAX}")
        elif part in b"]}":
            depth -= 1
