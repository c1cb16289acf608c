"""Scopes: patterns for targets, and what may be had of these targets.  A rule is a scope with those whom it is for.

A pattern is a target in which `*` stands for any characters but '/', and `?` for one such character.  Two patterns are words:
`own` (what is the peer's own, such as a process whose uids are all the peer's) and `*` (anything).
"""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

from msgspec import Struct

from nsbroker.daemon.policy.frozen_sets import frozen
from nsbroker.daemon.policy.permission import Allowance
from nsbroker.errors import InvalidTarget
from nsbroker.model.identity import NamespaceType
from nsbroker.model.target import ENGINES, KINDS, UNIT_SUFFIXES, Target

Names = tuple[str, ...]
"""All targets that name one and the same thing."""


_CONTAINER = r"[A-Za-z0-9_.+/-]*"
# The characters that targets of each kind can have after the colon, and '/' only where targets have it.
_CHARACTERS: Mapping[str, str] = {
    "tid": "[0-9/]*",
    "name": "[A-Za-z0-9_.-]*",
    "unit": r"[A-Za-z0-9:_.\\@-]*",
    "path": ".*",
    "container": _CONTAINER,
    **dict.fromkeys(ENGINES, _CONTAINER),
    # `pid` is the kind of processes, and the type of namespaces whose ids are written as pid:[4026531836].
    **{str(ns_type): r"[0-9\[\]]*" for ns_type in NamespaceType},
}
_SLASHES_MAX = 2


class NamePatterns(NamedTuple):
    """Names and patterns of targets."""

    exact: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()
    """The text before the '*' of each pattern that has only one, at its end."""
    globs: re.Pattern[str] | None = None
    """All other patterns."""
    beginnings: tuple[str, ...] = ()
    """The text before the first '*' or '?' of each pattern."""

    @classmethod
    def parse(cls, patterns: Sequence[str]) -> "NamePatterns":
        """Compile targets and patterns.  Raises InvalidTarget."""
        exact, prefixes, globs = [], [], []
        for pattern in patterns:
            if "*" not in pattern and "?" not in pattern:
                exact.append(str(Target.parse(pattern)))
                continue
            _check_kind(pattern)
            # Most patterns are like this.  Compiling a regular expression takes much longer, and some policies have thousands.
            if "*" not in pattern[:-1] and "?" not in pattern:
                prefixes.append(pattern[:-1])
            else:
                globs.append(pattern)
        starts = tuple(dict.fromkeys(prefixes))
        if not globs:
            return cls(frozen(exact), starts, None, starts)
        beginnings = (re.split(r"[*?]", pattern, maxsplit=1)[0] for pattern in globs)
        compiled = re.compile("|".join(map(_compile_pattern, globs)))
        return cls(frozen(exact), starts, compiled, tuple(dict.fromkeys((*starts, *beginnings))))

    def fits(self, name: str) -> bool:
        """Return whether one of them fits `name`."""
        return name in self.exact or _fits_pattern(name, self.prefixes, self.globs)


class Scope(Struct, frozen=True, kw_only=True):
    """Targets, and what is allowed of them."""

    anything: bool
    own: bool
    exact: frozenset[str]
    prefixes: tuple[str, ...]
    globs: re.Pattern[str] | None
    beginnings: tuple[str, ...]
    """As in NamePatterns."""
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
            prefixes=names.prefixes,
            globs=names.globs,
            beginnings=names.beginnings,
            kinds=_same_set(frozenset(pattern.partition(":")[0] for pattern in patterns)),
            allowance=allowance,
            **others,
        )

    def fits_target(self, target: str) -> bool:
        """Return whether one of its names or patterns fits `target`."""
        return target in self.exact or _fits_pattern(target, self.prefixes, self.globs)

    def is_named(self, names: Names) -> bool:
        """Return whether it is for anything, or one of its names or patterns fits one of `names`."""
        return self.anything or any(map(self.fits_target, names))

    def has_exactly(self, names: Names) -> bool:
        """Return whether it is for anything, or has exactly one of `names`.  A pattern that fits is not enough."""
        return self.anything or not self.exact.isdisjoint(names)


@functools.lru_cache(maxsize=256)
def _same_set(kinds: frozenset[str]) -> frozenset[str]:
    """Return the same object for the same kinds of targets, of which there are few."""
    return kinds


def _check_kind(pattern: str) -> None:
    """Raise InvalidTarget for a pattern that is not for one kind of targets."""
    kind, colon, _ = pattern.partition(":")
    if not colon or kind not in KINDS:
        raise InvalidTarget(f"{pattern!r} is no pattern: write 'own', '*', or a target with '*' in it, such as name:web-*")


def _fits_pattern(name: str, prefixes: tuple[str, ...], globs: re.Pattern[str] | None) -> bool:
    return (
        name.startswith(prefixes) and any(name.startswith(prefix) and "/" not in name[len(prefix) :] for prefix in prefixes)
    ) or (globs is not None and globs.fullmatch(name) is not None)


def _compile_pattern(pattern: str) -> str:
    """Return the regular expression for a pattern with '*' or '?'."""
    first, *rest = (_escape(piece) for piece in re.split(r"\*+", pattern))
    if not rest:
        return first
    # What follows a '*' is looked for once, from the left.  The atomic group keeps its first place, so the time is linear.  Only
    # the last piece must be at the end of the text.
    return first + "".join(f"(?>[^/]*?{piece})" for piece in rest[:-1]) + f"[^/]*{rest[-1]}"


def why_fits_nothing(pattern: str) -> str | None:
    """Return why a pattern with '*' or '?' can fit no target.  None if it may fit one, and for what is no such pattern.

    `*` and `?` stand for no '/'.
    """
    kind, _, value = pattern.partition(":")
    if "*" not in value and "?" not in value:
        return None
    first, *_, last = re.split(r"[*?]", value)
    slashes = value.count("/")
    strange = next((c for c in value if c not in "*?" and not re.fullmatch(_CHARACTERS[kind], c)), None)
    if strange is not None:
        return f"no target that begins with {kind}: has {strange!r}"
    if kind == "path" and not value.lstrip("*").startswith("/"):
        return "a path begins with '/', which no '*' or '?' stands for"
    if kind == "tid" and slashes != 1:
        return "write tid:PROCESS/THREAD, since no '*' or '?' stands for '/'"
    if kind not in ("path", "tid") and slashes > _SLASHES_MAX:
        return f"a container has at most {_SLASHES_MAX} '/' in its name"
    if kind == "unit" and not any(suffix.endswith(last) or last.endswith(suffix) for suffix in UNIT_SUFFIXES):
        return f"a unit ends in one of {', '.join(UNIT_SUFFIXES)}"
    if kind in frozenset(NamespaceType) and kind != "pid" and (first[:1] not in ("", "[") or last[-1:] not in ("", "]")):
        return f"an id is written as {kind}:[4026531840]"
    return None


def _escape(piece: str) -> str:
    return "".join("[^/]" if character == "?" else re.escape(character) for character in piece)
