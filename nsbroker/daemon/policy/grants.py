"""Grants: the rules that fit one peer, and their verdicts.

A verdict costs the same with a thousand rules as with one: exact names are in a dictionary, and patterns are found by the text
that they begin with.
"""

import copy
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from nsbroker.daemon.policy.permission import Holding, Permission
from nsbroker.daemon.policy.restriction import UNRESTRICTED, Restriction
from nsbroker.daemon.policy.scope import NamePatterns, Names, Scope
from nsbroker.model.identity import NamespaceType
from nsbroker.model.target import ENGINES, Target, TargetKind

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_ALL = frozenset(NamespaceType)
_CACHE_MAX = 64
# The grants of a restricted connection serve that connection alone, and there can be many such connections.
_RESTRICTED_CACHE_MAX = 8
_CACHED_NAME_MAX = 128
_DERIVED_MAX = 512
# The kinds of target that can be a peer's own: processes, and names under which the broker holds namespaces for the peer.
_OWNABLE = frozenset(("pid", "tid", "self", "name", "container", *ENGINES, "unit"))


class Verdict(NamedTuple):
    """Whether something is allowed, and the rules that allow it.

    `rules` has the name of a rule for each thing that is wanted, None where no rule allows it; `rule` has all these names in one
    line.  `by_name` says of each thing whether a rule that names the target allows it.  Otherwise it is allowed only because the
    target is the peer's own.
    """

    allowed: bool
    rules: Sequence[str | None]
    rule: str
    by_name: Sequence[bool] = ()


class Rule(Scope, frozen=True, kw_only=True):
    """One rule, compiled: a scope, and those whom it is for."""

    name: str
    origin: Path
    """The file that it is written in."""
    everyone: bool
    uids: frozenset[int]
    gids: frozenset[int]
    units: frozenset[str]
    workloads: NamePatterns
    """The containers for whose processes the rule is."""
    workload_engines: frozenset[str]
    """The engines of `workloads`; `container` stands for all."""
    until: float
    """When it ends, in seconds since 1970; infinity for a rule without an end."""


class _Fit(NamedTuple):
    rule: Rule
    by_name: bool


class Grants:
    """The rules that fit one peer, within the restriction of a connection if there is one."""

    __slots__ = (
        "_anything",
        "_beginnings",
        "_cache_max",
        "_container",
        "_derived",
        "_exact",
        "_fits",
        "_kinds",
        "_lengths",
        "_restriction",
        "_rules",
        "_types",
        "_unnamed",
        "_verdicts",
        "allows_unnamed",
        "has_own",
    )

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        # Numbers of rules (their indexes in `rules`): those that need no name, by exact names, by the beginnings of patterns.
        self._unnamed = [number for number, rule in enumerate(rules) if rule.anything or rule.own]
        self._exact = index((name, number) for number, rule in enumerate(rules) for name in rule.exact)
        self._beginnings = index((text, number) for number, rule in enumerate(rules) for text in rule.beginnings)
        self._lengths = sorted(set(map(len, self._beginnings)))
        self._kinds = frozenset().union(*(rule.kinds for rule in rules))
        self._anything = any(rule.anything for rule in rules)
        self.has_own = self.allows_unnamed = bool(self._unnamed)
        """Whether a rule allows what is the peer's own, and whether that is enough for targets that have no name."""
        self._restriction = UNRESTRICTED
        self._types = _ALL
        self._cache_max = _CACHE_MAX
        self._forget()

    def _forget(self) -> None:
        self._fits: dict[Names, list[_Fit]] = {}
        self._verdicts: dict[tuple[Names, tuple[Permission, ...], bool], Verdict] = {}
        self._container: dict[tuple[str, tuple[Permission, ...] | None], bool] = {}
        self._derived: dict[Hashable, Any] = {}

    def restricted(self, restriction: Restriction) -> "Grants":
        """Return what is left of these grants, which are unrestricted, within `restriction`."""
        grants = copy.copy(self)
        grants._restriction = restriction
        grants._cache_max = _RESTRICTED_CACHE_MAX
        grants._types = restriction.namespaces()
        grants.has_own = self.has_own or restriction.has_own()
        grants.allows_unnamed = self.has_own and restriction.includes((), own=True)
        grants._forget()
        return grants

    def verdict(self, names: Names, wanted: tuple[Permission, ...], *, own: bool) -> Verdict:
        """Return the verdict on opening `wanted` of the target with these names.

        `own` means that the target is the peer's own, such as a process whose uids are all the peer's.  With `own=True`,
        before anything is looked up, a refusal means that no rule could allow it.  With `own=False`, a permission means that a
        rule names the target.
        """
        key = (names, wanted, own)
        verdict = self._verdicts.get(key)
        if verdict is None:
            fits, restriction = self._find_fits(names), self._restriction
            allowing = [
                [fit for fit in fits if (own or fit.by_name) and fit.rule.allowance.allows(one)] if restriction.allows(one) else []
                for one in wanted
            ]
            rules = [found[0].rule.name if found else None for found in allowing]
            by_name = [any(fit.by_name for fit in found) for found in allowing]
            verdict = Verdict(None not in rules, rules, " ".join(dict.fromkeys(rule for rule in rules if rule)), by_name)
            if _is_short(names):
                self._remember(self._verdicts, key, verdict)
        return verdict

    def may_ask(self, target: Target, names: Names, wanted: tuple[Permission, ...] | None) -> bool:
        """Return whether any rule could allow `wanted` (None: anything), as far as is known before `target` is looked up.

        A container may turn out to have other names than the name or the id that the peer asks for, so for a container all rules
        for its engine count.
        """
        if target.kind is TargetKind.CONTAINER:
            key = (target.engine, wanted)
            if key not in self._container:
                kinds = {name.partition(":")[0] for name in names}
                rules = [rule for rule in self._rules if rule.anything or rule.own or not kinds.isdisjoint(rule.kinds)]
                is_possible = bool(rules) and self._restriction.includes_kinds(kinds, own=True)
                is_possible = is_possible and all(
                    self._restriction.allows(one) and any(rule.allowance.allows(one) for rule in rules) for one in wanted or ()
                )
                self._remember(self._container, key, is_possible)
            return self._container[key]
        return bool(self._find_fits(names)) if wanted is None else self.verdict(names, wanted, own=True).allowed

    def derive(self, key: K, make: "Callable[[Grants, K], V]") -> V:
        """Return `make(self, key)`, which must depend on nothing else: it is remembered for as long as these grants exist.

        All keys must be of one kind, and short.
        """
        try:
            return cast(V, self._derived[key])
        except KeyError:
            if len(self._derived) >= _DERIVED_MAX:
                self._derived.clear()
            value = self._derived[key] = make(self, key)
            return value

    def types(self, names: Names, *, own: bool) -> frozenset[NamespaceType]:
        """Return the types that may be opened of the target with these names."""
        fits = [fit.rule.allowance.namespaces for fit in self._find_fits(names) if own or fit.by_name]
        return self._types.intersection(frozenset().union(*fits))

    def types_of_held(self, name: str, *, own: bool) -> frozenset[NamespaceType]:
        """Return the types that may be opened of what the broker holds as `name`, such as name:lab.

        `own`: it is held for the peer.  Of what is held for another user, only a rule with this exact name, or one for anything,
        allows something.
        """
        if own:
            return self.types((name,), own=True)
        return self._types.intersection(frozenset().union(*(rule.allowance.namespaces for rule in self._rules_with(name))))

    def everywhere(self) -> frozenset[NamespaceType]:
        """Return the types that may be opened of any target."""
        if not self._restriction.is_for_anything():
            return frozenset()
        types = (rule.allowance.namespaces for rule in self._rules if rule.anything)
        return self._types.intersection(frozenset().union(*types))

    def has_kind(self, kind: str) -> bool:
        """Return whether a rule has a pattern for targets of this kind, or a restriction leaves only such targets."""
        restriction = self._restriction
        has_pattern = kind in self._kinds or (self._anything and restriction.has_kind(kind))
        return has_pattern and restriction.includes_kinds({kind}, own=False)

    def may_name(self, engine: str) -> bool:
        """Return whether a rule has a pattern for containers of this engine."""
        kinds = {engine, "container"}
        return (self._anything or not self._kinds.isdisjoint(kinds)) and self._restriction.includes_kinds(kinds, own=False)

    def may_release(self, name: str, types: Iterable[NamespaceType]) -> bool:
        """Return whether the peer may release what the broker holds for it as `name`, such as name:lab.

        This takes no rule.  But a restricted connection may release only what it may hold.
        """
        return self._restriction.is_named((name,)) and all(map(self._restriction.allows, map(Holding, types)))

    def is_named(self, names: Names) -> bool:
        """Return whether a rule names the target, so that the peer may learn whether it exists."""
        return any(fit.by_name for fit in self._find_fits(names))

    def is_named_exactly(self, name: str) -> bool:
        """Return whether a rule has this exact name or is for anything.  A pattern that fits the name is not enough."""
        return (self._anything or name in self._exact) and self._restriction.is_named_exactly(name)

    def exactly(self, name: str) -> "Grants":
        """Return what is left of these grants without the rules that fit `name` only by a pattern."""
        rules = self._rules_with(name)
        return Grants(rules).restricted(self._restriction) if self._restriction.scopes else Grants(rules)

    def _rules_with(self, name: str) -> list[Rule]:
        """Return the rules that have this exact name or are for anything; none if a restriction leaves nothing under this name."""
        if not self.is_named_exactly(name):
            return []
        numbers = sorted({*self._unnamed, *self._exact.get(name, ())})
        return [rule for number in numbers if (rule := self._rules[number]).has_exactly((name,))]

    def _find_fits(self, names: Names) -> list[_Fit]:
        fits = self._fits.get(names)
        if fits is not None:
            return fits
        # A target without any names is a container of a user's rootless engine.
        may_be_own = not names or names[0].partition(":")[0] in _OWNABLE
        fits = list(self._fits_of_rules(names, may_be_own)) if self._restriction.includes(names, own=may_be_own) else []
        if _is_short(names):
            self._remember(self._fits, names, fits)
        return fits

    def _fits_of_rules(self, names: Names, may_be_own: bool) -> Iterator[_Fit]:
        within = self._restriction.is_named(names)
        for number in sorted({*self._unnamed, *(number for name in names for number in self._candidates(name))}):
            rule = self._rules[number]
            if (named := rule.is_named(names)) or (rule.own and may_be_own):
                yield _Fit(rule, named and within)

    def _candidates(self, name: str) -> Iterator[int]:
        """Yield the numbers of the rules that may have this name, or a pattern for it."""
        yield from self._exact.get(name, ())
        for length in self._lengths:
            yield from self._beginnings.get(name[:length], ())

    def _remember(self, cache: dict[K, V], key: K, value: V) -> None:
        # Keys have text from clients (but no long names), so the cache must not grow with what clients make up.
        if len(cache) >= self._cache_max:
            cache.clear()
        cache[key] = value


def index(entries: Iterable[tuple[K, int]]) -> dict[K, list[int]]:
    """Collect the numbers by their keys."""
    found: dict[K, list[int]] = {}
    for key, number in entries:
        found.setdefault(key, []).append(number)
    return found


def names_of(target: Target) -> Names:
    """Return the names a rule could use for this target, before it is resolved."""
    if target.kind is not TargetKind.CONTAINER:
        return (str(target),)
    kinds = ("container", target.engine) if target.engine else ("container", *ENGINES)
    return tuple(f"{kind}:{target.value}" for kind in kinds)


def _is_short(names: Names) -> bool:
    return all(len(name) <= _CACHED_NAME_MAX for name in names)
