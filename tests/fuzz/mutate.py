"""Make variants of texts, and of values that JSON can represent."""

import random
from typing import Any

TOKENS = (
    "", " ", "\t", "\n", "\r", "\0", "\x1c", "\x85", "\u2028", "\ud800", "\U0010ffff", "é", "٣", "−", ":", "/", "//", ".", "..",
    "*", "?", "[", "]", "{", "}", '"', "'", "\\", "=", ",", "#", "%", "(", ")", "-", "-1", "0", "00", "1", "07", "1e9", "0x10",
    "2147483647", "2147483648", "4294967295", "4294967296", "18446744073709551616", "9" * 400, "a" * 256, "/" * 300, "-" * 5000,
    "pid", "self", "net", "name:", "container:", "unit:", "path:/", "net:[", ".service", ".slice", "null", "true", "inet:stream",
)  # fmt: skip
"""Pieces of text that parsers often handle wrongly."""

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**32, 2**63, 2**64, -(2**63), 10**30, 0.5, 1e308, "", "a", "\0", "\ud7ff", "x" * 300,
    [], [None], {}, {"a": {}}, [[[[]]]], "self", "net", "*", "own", "everyone",
)  # fmt: skip


def text(value: str, chance: random.Random) -> str:
    """Return a text that differs in one place or a few."""
    for _ in range(1 + (chance.random() < 0.3) * chance.randrange(4)):
        at, to = sorted((chance.randint(0, len(value)), chance.randint(0, len(value))))
        match chance.randrange(6):
            case 0:
                value = value[:at] + chance.choice(TOKENS) + value[at:]
            case 1:
                value = value[:at] + chance.choice(TOKENS) + value[to:]
            case 2:
                value = value[:at] + value[to:]
            case 3:
                value = value[:to] + value[at:to] * chance.randrange(1, 4) + value[to:]
            case 4:
                value = value[:at] + chr(chance.randrange(1, 0x250)) + value[at + 1 :]
            case 5:
                value = value[:at] + value[at:to][::-1] + value[to:]
    return value


def data(value: bytes, chance: random.Random) -> bytes:
    """Return bytes that differ in one place or a few."""
    return text(value.decode("latin-1"), chance).encode("utf-8" if chance.random() < 0.5 else "latin-1", "replace")


def tree(value: Any, chance: random.Random) -> Any:
    """Return a JSON value in which one part was replaced, removed, added, repeated or changed inside."""
    if isinstance(value, dict) and value and chance.random() < 0.7:
        copy = dict(value)
        key = chance.choice(list(copy))
        match chance.randrange(6):
            case 0:
                del copy[key]
            case 1:
                copy[_encodable(text(key, chance))] = copy.pop(key)
            case 2:
                copy[_encodable(chance.choice(TOKENS))] = chance.choice(VALUES)
            case _:
                copy[key] = tree(copy[key], chance)
        return copy
    if isinstance(value, list) and value and chance.random() < 0.7:
        copy_list = list(value)
        place = chance.randrange(len(copy_list))
        match chance.randrange(4):
            case 0:
                del copy_list[place]
            case 1:
                copy_list *= chance.randrange(2, 5)
            case _:
                copy_list[place] = tree(copy_list[place], chance)
        return copy_list
    if isinstance(value, str) and chance.random() < 0.6:
        return _encodable(text(value, chance))
    if isinstance(value, int) and chance.random() < 0.3:
        return value + chance.choice((-1, 1, 2**16, 2**31))
    return chance.choice(VALUES)


def _encodable(value: str) -> str:
    return value.encode(errors="replace").decode()
