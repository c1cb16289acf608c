"""The rules that fit one peer, and what they say.

Asking costs the same with a thousand rules as with one: names are looked up, and patterns are found by what they begin with.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from nsbroker.daemon.engines.registry import Asker
from nsbroker.daemon.peer import Peer
from nsbroker.daemon.policy.permission import Allowance, Permission
from nsbroker.model.identity import NamespaceType
from nsbroker.model.target import ENGINES, Kind, Target

Names = tuple[str, ...]
"""The targets that mean one and the same thing."""
K = TypeVar("K")
V = TypeVar("V")

_REMEMBERED = 64
_TARGET_REMEMBERED = 128
# What can be somebody's own: processes, and names under which the broker holds something for them.
_OWNABLE = frozenset(("pid", "tid", "self", "name", "container", *ENGINES, "unit"))


class Verdict(NamedTuple):
    """Whether it is allowed, and the rules that say so: one for each thing asked for, None where none does, and all their
    names in one line.  `by_name`: of each thing, whether a rule that names the target allows it; otherwise it is allowed
    only because the target is the peer's own.
    """

    allowed: bool
    rules: Sequence[str | None]
    rule: str
    by_name: Sequence[bool] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, compiled."""

    name: str
    everyone: bool
    uids: frozenset[int]
    gids: frozenset[int]
    units: frozenset[str]
    anything: bool
    own: bool
    exact: frozenset[str]
    globs: re.Pattern[str] | None
    beginnings: frozenset[str]
    """What stands before the first '*' or '?' of each of its patterns."""
    kinds: frozenset[str]
    allowance: Allowance

    def fits_target(self, target: str) -> bool:
        """Whether a pattern names `target`."""
        return target in self.exact or (self.globs is not None and self.globs.fullmatch(target) is not None)


class _Fit(NamedTuple):
    rule: Rule
    by_name: bool


class Grants:
    """The rules that fit one peer."""

    __slots__ = ("_beginnings", "_container", "_exact", "_fits", "_kinds", "_lengths", "_rules", "_unnamed", "_verdicts", "has_own")

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        # Numbers of rules: those that need no name, by names, and by the beginnings of patterns.
        self._unnamed = [number for number, rule in enumerate(rules) if rule.anything or rule.own]
        self._exact = index((name, number) for number, rule in enumerate(rules) for name in rule.exact)
        self._beginnings = index((text, number) for number, rule in enumerate(rules) for text in rule.beginnings)
        self._lengths = sorted(set(map(len, self._beginnings)))
        self._kinds = frozenset().union(*(rule.kinds for rule in rules))
        self.has_own = bool(self._unnamed)
        """Whether a rule allows what is the peer's own."""
        self._fits: dict[Names, list[_Fit]] = {}
        self._verdicts: dict[tuple[Names, tuple[Permission, ...], bool], Verdict] = {}
        self._container: dict[tuple[str, tuple[Permission, ...] | None], bool] = {}

    def verdict(self, names: Names, wanted: tuple[Permission, ...], *, own: bool) -> Verdict:
        """What the rules say of opening `wanted` of what has these names.

        `own`: it is a process all of whose uids are the peer's.  Asked with `own=True` before anything is looked up, a no
        means that no rule could allow it; with `own=False` a yes means that a rule names it.
        """
        question = (names, wanted, own)
        verdict = self._verdicts.get(question)
        if verdict is None:
            fits = self._fitting(names)
            allowing = [[fit for fit in fits if (own or fit.by_name) and fit.rule.allowance.allows(one)] for one in wanted]
            rules = [found[0].rule.name if found else None for found in allowing]
            by_name = [any(fit.by_name for fit in found) for found in allowing]
            verdict = Verdict(None not in rules, rules, " ".join(dict.fromkeys(rule for rule in rules if rule)), by_name)
            if _is_short(names):
                _remember(self._verdicts, question, verdict)
        return verdict

    def may_ask(self, target: Target, names: Names, wanted: tuple[Permission, ...] | None) -> bool:
        """Whether any rule could allow `wanted` (None: anything) of `target`, as far as can be told before it is looked up.

        A container may turn out to have other names than the one, or the id, that it is asked for by.
        """
        if target.kind is Kind.CONTAINER:
            question = (target.engine, wanted)
            if question not in self._container:
                kinds = {name.partition(":")[0] for name in names}
                rules = [rule for rule in self._rules if rule.anything or rule.own or not kinds.isdisjoint(rule.kinds)]
                may = bool(rules) and all(any(rule.allowance.allows(one) for rule in rules) for one in wanted or ())
                _remember(self._container, question, may)
            return self._container[question]
        return bool(self._fitting(names)) if wanted is None else self.verdict(names, wanted, own=True).allowed

    def types(self, names: Names, *, own: bool) -> frozenset[NamespaceType]:
        """The types that may be opened of what has these names."""
        fits = [fit.rule.allowance.namespaces for fit in self._fitting(names) if own or fit.by_name]
        return frozenset().union(*fits)

    def types_of_held(self, name: str, *, own: bool) -> frozenset[NamespaceType]:
        """The types that may be opened of what the broker holds as `name`, such as name:lab, for the peer itself or for
        somebody else.
        """
        return self.types((name,), own=own) if own or self.is_named_exactly(name) else frozenset()

    def everywhere(self) -> frozenset[NamespaceType]:
        """The types that may be opened of anything."""
        return frozenset().union(*(rule.allowance.namespaces for rule in self._rules if rule.anything))

    def has_kind(self, kind: str) -> bool:
        """Whether a rule has a pattern for targets of this kind."""
        return kind in self._kinds

    def may_name(self, engine: str) -> bool:
        """Whether a rule has a pattern for containers of this engine."""
        return not self._kinds.isdisjoint((engine, "container")) or any(self._rules[number].anything for number in self._unnamed)

    def asker(self, peer: Peer) -> Asker:
        """How engines are asked on behalf of `peer`, whose rules these are."""
        has_own = not peer.anonymous and self.has_own
        return Asker(peer.user, peer.uid, peer.gid, has_own, self.may_name, lambda container: self.is_named(container.rule_names()))

    def is_named(self, names: Names) -> bool:
        """Whether a rule names it, so that the peer may learn whether it exists."""
        return any(fit.by_name for fit in self._fitting(names))

    def is_named_exactly(self, name: str) -> bool:
        """Whether a rule has this very name, not merely a pattern that fits it, or allows anything."""
        return name in self._exact or any(self._rules[number].anything for number in self._unnamed)

    def _fitting(self, names: Names) -> list[_Fit]:
        fits = self._fits.get(names)
        if fits is not None:
            return fits
        # What has no name that a rule could mean is a container of a user's own engine.
        may_be_own = not names or names[0].partition(":")[0] in _OWNABLE
        candidates = {*self._unnamed, *(number for name in names for number in self._candidates(name))}
        fits = [
            _Fit(rule, named)
            for rule in map(self._rules.__getitem__, sorted(candidates))
            if (named := rule.anything or any(map(rule.fits_target, names))) or (rule.own and may_be_own)
        ]
        if _is_short(names):
            _remember(self._fits, names, fits)
        return fits

    def _candidates(self, name: str) -> Iterator[int]:
        """The rules that may have a name or a pattern for this one."""
        yield from self._exact.get(name, ())
        for length in self._lengths:
            yield from self._beginnings.get(name[:length], ())


def index(entries: Iterable[tuple[K, int]]) -> dict[K, list[int]]:
    """The numbers by their keys."""
    found: dict[K, list[int]] = {}
    for key, number in entries:
        found.setdefault(key, []).append(number)
    return found


def names_of(target: Target) -> Names:
    """The targets by which rules may mean what is asked for as `target`, before it is known what that is."""
    if target.kind is not Kind.CONTAINER:
        return (str(target),)
    kinds = ("container", target.engine) if target.engine else ("container", *ENGINES)
    return tuple(f"{kind}:{target.value}" for kind in kinds)


def _is_short(names: Names) -> bool:
    return all(len(name) <= _TARGET_REMEMBERED for name in names)


def _remember(cache: dict[K, V], key: K, value: V) -> None:
    # Keys hold what clients write (long targets never): what is remembered must not grow with what they make up.
    if len(cache) >= _REMEMBERED:
        cache.clear()
    cache[key] = value
