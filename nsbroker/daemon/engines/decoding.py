"""Decoding what an engine answers or keeps in its files, which may be anything."""

from typing import TypeVar

import msgspec

from nsbroker.errors import EngineUnavailable

T = TypeVar("T")

DECODE_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What a decoder of msgspec raises for bytes that it cannot decode."""


def decode(decoder: msgspec.json.Decoder[T], answer: bytes, engine: str, place: str) -> T:
    """Return the decoded answer that `engine` sent from its socket `place`.  Raises EngineUnavailable when it makes no sense."""
    try:
        return decoder.decode(answer)
    except DECODE_ERRORS as error:
        raise EngineUnavailable(engine, f"{place} sent an answer that makes no sense: {error}") from error
