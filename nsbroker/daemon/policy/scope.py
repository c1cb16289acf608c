"""Scopes: patterns for targets, and what may be had of these targets.  A rule is a scope with those whom it is for.

A pattern is a target in which `*` stands for any characters but '/', and `?` for one such character.  Two patterns are words:
`own` (what is the peer's own, such as a process whose uids are all the peer's) and `*` (anything).
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

from msgspec import Struct

from nsbroker.daemon.policy.permission import Allowance
from nsbroker.errors import InvalidTarget
from nsbroker.model.target import KINDS, Target

Names = tuple[str, ...]
"""All targets that name one and the same thing."""


class NamePatterns(NamedTuple):
    """Names and patterns of targets."""

    exact: frozenset[str] = frozenset()
    globs: re.Pattern[str] | None = None
    beginnings: frozenset[str] = frozenset()
    """The text before the first '*' or '?' of each pattern."""

    @classmethod
    def parse(cls, patterns: Sequence[str]) -> "NamePatterns":
        """Compile targets and patterns.  Raises InvalidTarget."""
        globs = [pattern for pattern in patterns if "*" in pattern or "?" in pattern]
        return cls(
            frozenset(str(Target.parse(pattern)) for pattern in patterns if pattern not in globs),
            re.compile("|".join(map(_compile_pattern, globs))) if globs else None,
            frozenset(re.split(r"[*?]", pattern, maxsplit=1)[0] for pattern in globs),
        )

    def fits(self, name: str) -> bool:
        """Return whether one of them fits `name`."""
        return name in self.exact or (self.globs is not None and self.globs.fullmatch(name) is not None)


class Scope(Struct, frozen=True, kw_only=True):
    """Targets, and what is allowed of them."""

    anything: bool
    own: bool
    exact: frozenset[str]
    globs: re.Pattern[str] | None
    beginnings: frozenset[str]
    """The text before the first '*' or '?' of each of its patterns."""
    kinds: frozenset[str]
    allowance: Allowance

    @classmethod
    def parse(cls, targets: Sequence[str], allowance: Allowance, **others: Any) -> Self:
        """Compile the patterns `targets`.  `others` are the further fields of a subclass.  Raises InvalidTarget."""
        patterns = [pattern for pattern in targets if pattern not in ("*", "own")]
        names = NamePatterns.parse(patterns)
        return cls(
            anything="*" in targets,
            own="own" in targets,
            exact=names.exact,
            globs=names.globs,
            beginnings=names.beginnings,
            kinds=frozenset(pattern.partition(":")[0] for pattern in patterns),
            allowance=allowance,
            **others,
        )

    def fits_target(self, target: str) -> bool:
        """Return whether one of its names or patterns fits `target`."""
        return target in self.exact or (self.globs is not None and self.globs.fullmatch(target) is not None)

    def is_named(self, names: Names) -> bool:
        """Return whether it is for anything, or one of its names or patterns fits one of `names`."""
        return self.anything or any(map(self.fits_target, names))


def _compile_pattern(pattern: str) -> str:
    """Return the regular expression for a pattern with '*' or '?'.  Raises InvalidTarget."""
    kind, colon, _ = pattern.partition(":")
    if not colon or kind not in KINDS:
        raise InvalidTarget(f"targets: {pattern!r} is no pattern: write 'own', '*', or a target with '*' in it, such as name:web-*")
    first, *rest = (_escape(piece) for piece in re.split(r"\*+", pattern))
    if not rest:
        return first
    # What follows a '*' is looked for once, from the left.  The atomic group keeps its first place, so the time is linear.  Only
    # the last piece must be at the end of the text.
    return first + "".join(f"(?>[^/]*?{piece})" for piece in rest[:-1]) + f"[^/]*{rest[-1]}"


def _escape(piece: str) -> str:
    return "".join("[^/]" if character == "?" else re.escape(character) for character in piece)
