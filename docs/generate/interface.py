"""The reference of the varlink interface, from its definition."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from docs.generate import prose
from nsbroker.protocol.messages import TEXT

_MEMBER = re.compile(r"(type|method|error) ([A-Za-z0-9]+)")
_COMMENT = re.compile("#.*")


class Member(NamedTuple):
    """A type, a method or an error of the interface: its comment, and its definition as it is written."""

    kind: str
    name: str
    comment: str
    definition: str


def members() -> Iterator[Member]:
    """Yield everything that the interface has, in its order."""
    comment: list[str] = []
    lines = iter(TEXT.read_text().splitlines())
    for each in lines:
        if each.startswith("#"):
            comment.append(each.removeprefix("#").removeprefix(" "))
        elif match := _MEMBER.match(each):
            definition = [each]
            while _depth(definition):
                definition.append(next(lines))
            yield Member(match[1], match[2], "\n".join(comment), "\n".join(definition))
            comment = []
        else:
            comment = []


def section(kind: str) -> str:
    """Return the reference of all members of one kind: type, method or error."""
    return "\n\n".join(
        f"### {one.name}\n\n{prose.document(one.comment)}\n\n```text\n{one.definition}\n```"
        for one in members()
        if one.kind == kind
    )


def _depth(lines: list[str]) -> int:
    text = "".join(_COMMENT.sub("", each) for each in lines)
    return text.count("(") - text.count(")")
