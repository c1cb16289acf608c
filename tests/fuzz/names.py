"""Targets, namespace ids, socket kinds and addresses: what is accepted is written the same way, and the rest is refused."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import strategies as st

from nsbroker.errors import InvalidAddress, InvalidParameter, InvalidTarget, InvalidType
from nsbroker.model.identity import NamespaceId, NamespaceType
from nsbroker.model.socket_kind import SocketFamily, SocketKind, SocketType
from nsbroker.model.target import ENGINES, PID_MAX, UNIT_SUFFIXES, Target
from nsbroker.protocol.address import socket_path
from nsbroker.protocol.target_spec import TargetSpec
from tests.fuzz import mutate
from tests.fuzz.subject import Fault, Seed, Subject, seeded

_VARIANTS = 40
_specs = msgspec.json.Decoder(TargetSpec)
_word = st.text("abzAZ09_.+-", min_size=1, max_size=12)
_pid = st.one_of(st.integers(0, PID_MAX + 2), st.sampled_from((1, PID_MAX))).map(str)
_id = st.builds("{}:[{}]".format, st.sampled_from(tuple(NamespaceType)), st.integers(0, 2**32 + 1))
_target = st.one_of(
    st.just("self"),
    _pid.map("pid:{}".format),
    st.builds("tid:{}/{}".format, _pid, _pid),
    st.builds("{}:{}".format, st.sampled_from(("name", "container", "unit", "path", *ENGINES)), _word),
    st.builds("container:{}/{}/{}".format, _word, _word, _word),
    st.builds("unit:{}{}".format, _word, st.sampled_from(UNIT_SUFFIXES)),
    st.lists(_word, min_size=1, max_size=6).map(lambda parts: "path:/" + "/".join(parts)),
    _id,
)
_kind = st.builds("{}:{}:{}".format, st.sampled_from(tuple(SocketFamily)), st.sampled_from(tuple(SocketType)), st.integers(0, 1025))
_address = st.lists(_word, min_size=1, max_size=6).map(lambda parts: "unix:/" + "/".join(parts))
_any = st.tuples(st.sampled_from(("target", "id", "socket", "address")), st.one_of(_target, _kind, _address, st.text(max_size=30)))


def _check_target(text: str) -> None:
    try:
        target = Target.parse(text)
    except InvalidTarget:
        return
    if Target.parse(str(target)) != target:
        raise Fault(f"{text!r} is {target}, and {str(target)!r} is another")
    if not str(target).isprintable():
        raise Fault(f"{text!r} is a target that cannot be printed")
    spec = _specs.decode(msgspec.json.encode(TargetSpec.of(target)))
    if spec.to_target() != target:
        raise Fault(f"{target} is sent as {spec.to_target()}")


def _check_id(text: str) -> None:
    try:
        found = NamespaceId.parse(text)
    except InvalidTarget:
        return
    if str(found) != text or NamespaceId.parse(str(found)) != found:
        raise Fault(f"{text!r} is {found}")


def _check_socket(text: str) -> None:
    try:
        found = SocketKind.parse(text)
    except InvalidType:
        return
    if SocketKind.parse(str(found)) != found:
        raise Fault(f"{text!r} is {found}")


def _check_address(text: str) -> None:
    try:
        path = socket_path(text or "x")
    except InvalidAddress:
        return
    if not path.is_absolute() or path != Path(text.removeprefix("unix:")):
        raise Fault(f"{text!r} is {path}")


_CHECKS: dict[str, Callable[[str], None]] = {
    "target": _check_target,
    "id": _check_id,
    "socket": _check_socket,
    "address": _check_address,
}


def _check_spec(chance: random.Random, text: str) -> None:
    """Check a variant of what a client may send as a target."""
    fields = {"pid": 7, "tid": 8, "name": text, "container": text, "engine": "docker", "unit": text, "path": text, "self": True}
    some = {key: fields[key] for key in chance.sample(list(fields), chance.randrange(1, 3))}
    try:
        target = _specs.decode(msgspec.json.encode(mutate.tree(some, chance))).to_target()
    except (msgspec.ValidationError, InvalidParameter, UnicodeEncodeError):
        return
    if Target.parse(str(target)) != target:
        raise Fault(f"{some} is {target}")


def check(example: tuple[list[tuple[str, str]], Seed]) -> int:
    """Check each text as drawn, and variants of it."""
    drawn, seed = example
    chance = seed.again()
    for kind, text in drawn:
        _CHECKS[kind](text)
        for _ in range(_VARIANTS):
            _CHECKS[kind if chance.random() < 0.8 else "target"](mutate.text(text, chance))
        if kind == "target":
            for _ in range(_VARIANTS // 2):
                _check_spec(chance, text.partition(":")[2])
    return len(drawn) * (1 + _VARIANTS)


_kept: tuple[Any, ...] = (
    ([("address", "unix:/\ud800"), ("target", "path:/\ud800"), ("id", "net:[٣]"), ("socket", "inet:stream:٣")], Seed(0)),
)

SUBJECT = Subject("names", 0.2, seeded(st.lists(_any, min_size=5, max_size=15)), check, _kept)
