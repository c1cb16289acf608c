"""Answers of engines that make no sense are errors that name the engine."""

import msgspec
import pytest

from nsbroker.daemon.engines.decoding import decode
from nsbroker.errors import EngineUnavailable

_numbers = msgspec.json.Decoder(list[int])
_anything = msgspec.json.Decoder()


def test_an_answer_that_makes_sense_is_decoded() -> None:
    assert decode(_numbers, b"[1, 2]", "docker", "/run/docker.sock") == [1, 2]


@pytest.mark.parametrize(
    ("decoder", "answer"),
    [(_numbers, b"["), (_numbers, b'["1"]'), (_anything, b'"\xff"'), (_anything, b"[" * 1_000_000)],
    ids=["not JSON", "another type", "not UTF-8", "nested too deeply"],
)
def test_an_answer_that_makes_no_sense_is_an_error_of_the_engine(decoder: msgspec.json.Decoder[object], answer: bytes) -> None:
    with pytest.raises(EngineUnavailable, match=r"/run/docker\.sock sent an answer that makes no sense") as raised:
        decode(decoder, answer, "docker", "/run/docker.sock")
    assert raised.value.engine == "docker"
