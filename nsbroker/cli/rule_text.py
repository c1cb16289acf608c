"""Rules as they are written in a file: for grants, and for the rule that `nsbroker explain` proposes."""

import re
from collections.abc import Collection, Mapping, Sequence


def format_rule(name: str, who: Sequence[str], targets: Sequence[str], permissions: Mapping[str, Sequence[str]]) -> str:
    """Return a rule in TOML.  `permissions` are by their keys in a rule; those without entries are left out."""
    lines = [f"name = {_quote(name)}", f"who = {_quote_all(who)}", f"targets = {_quote_all(targets)}"]
    lines += [f"{key} = {_quote_all(words)}" for key, words in permissions.items() if words]
    return "\n".join(["[[allow]]", *lines, ""])


def _quote_all(texts: Sequence[str]) -> str:
    return f"[{', '.join(map(_quote, texts))}]"


def _quote(text: str) -> str:
    """Return a string of TOML.  JSON is no help: it has no escapes for characters beyond U+FFFF, and leaves U+007F as it is."""
    return f'"{"".join(map(_escape, text))}"'


def _escape(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    if character.isascii() and character.isprintable():
        return character
    number = ord(character)
    return f"\\u{number:04X}" if number <= 0xFFFF else f"\\U{number:08X}"


def choose_name(who: str, taken: Collection[str]) -> str:
    """Return a name for a rule for `who` that is not yet taken."""
    words = re.sub(r"[^A-Za-z0-9]+", "-", who.partition(":")[2] or who).strip("-") or "rule"
    names = (words if number == 1 else f"{words}-{number}" for number in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)
