"""What each peer may: rules, compiled once, asked on every call.

Default deny; rules only allow.  A rule's pattern is a target in which `*` stands for any characters but '/', and `?`
for one; two patterns are words: `own` (a process all of whose uids are the peer's) and `*` (anything).
"""

import grp
import pwd
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from nsbroker.daemon.configuration import Configuration, RuleText, SourcedRule
from nsbroker.daemon.engines.roster import Asker
from nsbroker.daemon.peer import NO_PEER_PIDFD, Peer
from nsbroker.daemon.permission import Allowance, Permission
from nsbroker.errors import ConfigurationError, InvalidTarget, InvalidType
from nsbroker.identity import NamespaceType
from nsbroker.linux.features import features
from nsbroker.target import ENGINES, KINDS, UNIT_SUFFIXES, Kind, Target

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
    kinds: frozenset[str]
    allowance: Allowance

    def fits_peer(self, peer: Peer, unit: str | None) -> bool:
        """Whether `who` has this peer in it."""
        if self.everyone:
            return True
        if peer.anonymous:
            return False
        return peer.uid in self.uids or not self.gids.isdisjoint(peer.groups) or unit in self.units

    def fits_target(self, target: str) -> bool:
        """Whether a pattern names `target`."""
        return target in self.exact or (self.globs is not None and self.globs.fullmatch(target) is not None)


class _Fit(NamedTuple):
    rule: Rule
    by_name: bool


class Grants:
    """The rules that fit one peer."""

    __slots__ = ("_by_kind", "_fits", "_rules", "_verdicts")

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self._by_kind: dict[str, list[Rule]] = {}
        self._fits: dict[Names, list[_Fit]] = {}
        self._verdicts: dict[tuple[Names, tuple[Permission, ...], bool], Verdict] = {}

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
            kinds = {name.partition(":")[0] for name in names}
            rules = [rule for rule in self._rules if rule.anything or rule.own or not kinds.isdisjoint(rule.kinds)]
            return bool(rules) and all(any(rule.allowance.allows(one) for rule in rules) for one in wanted or ())
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

    @property
    def has_own(self) -> bool:
        """Whether a rule allows what is the peer's own."""
        return any(rule.anything or rule.own for rule in self._rules)

    def has_kind(self, kind: str) -> bool:
        """Whether a rule has a pattern for targets of this kind."""
        return any(kind in rule.kinds for rule in self._rules)

    def may_name(self, engine: str) -> bool:
        """Whether a rule has a pattern for containers of this engine."""
        return any(rule.anything or not rule.kinds.isdisjoint((engine, "container")) for rule in self._rules)

    def asker(self, peer: Peer) -> Asker:
        """How engines are asked on behalf of `peer`, whose rules these are."""
        has_own = not peer.anonymous and self.has_own
        return Asker(peer.user, peer.uid, peer.gid, has_own, self.may_name, lambda container: self.is_named(container.rule_names()))

    def is_named(self, names: Names) -> bool:
        """Whether a rule names it, so that the peer may learn whether it exists."""
        return any(fit.by_name for fit in self._fitting(names))

    def is_named_exactly(self, name: str) -> bool:
        """Whether a rule has this very name, not merely a pattern that fits it, or allows anything."""
        return any(rule.anything or name in rule.exact for rule in self._rules)

    def _fitting(self, names: Names) -> list[_Fit]:
        fits = self._fits.get(names)
        if fits is not None:
            return fits
        # What has no name that a rule could mean is a container of a user's own engine.
        may_be_own = not names or names[0].partition(":")[0] in _OWNABLE
        fits = [
            _Fit(rule, named)
            for rule in self._about(names)
            if (named := rule.anything or any(map(rule.fits_target, names))) or (rule.own and may_be_own)
        ]
        if _is_short(names):
            _remember(self._fits, names, fits)
        return fits

    def _about(self, names: Names) -> Sequence[Rule]:
        """The rules with a pattern for these kinds of targets, or for any."""
        if len(names) != 1:
            return self._rules
        kind = names[0].partition(":")[0]
        rules = self._by_kind.get(kind)
        if rules is None:
            rules = [rule for rule in self._rules if rule.anything or rule.own or kind in rule.kinds]
            self._by_kind[kind] = rules
        return rules


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


class Policy:
    """All rules in force.  Raises ConfigurationError for a rule that cannot be understood."""

    def __init__(self, configuration: Configuration) -> None:
        self.warnings: list[str] = []
        self.rules = tuple(self._compile(rule) for rule in configuration.rules)
        self.loaded = time.time()
        self.has_units = any(rule.units for rule in self.rules)
        self._grants: dict[tuple[object, ...], Grants] = {}

    def grants(self, peer: Peer) -> Grants:
        """The rules that fit `peer` now: the unit, where a rule asks for it, is read anew each time."""
        unit = peer.unit() if self.has_units else None
        key = (peer.uid, peer.groups, peer.anonymous, unit)
        grants = self._grants.get(key)
        if grants is None:
            grants = Grants([rule for rule in self.rules if rule.fits_peer(peer, unit)])
            _remember(self._grants, key, grants)
        return grants

    def _compile(self, rule: SourcedRule) -> Rule:
        text, origin = rule
        try:
            return self._compiled(text, f"{origin}: rule {text.name!r}")
        except (ConfigurationError, InvalidTarget, InvalidType) as error:
            raise ConfigurationError(f"{origin}: rule {text.name!r}: {error}") from error

    def _compiled(self, text: RuleText, place: str) -> Rule:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", text.name):
            raise ConfigurationError("a rule's name has letters, digits, '_', '.' and '-' only")
        if not text.who or not text.targets:
            raise ConfigurationError("it fits nothing: `who` and `targets` have at least one entry each")
        allowance = Allowance.parse(text.namespaces, text.sockets, text.devices, text.create, text.hold)
        everyone, uids, gids, units = self._who(text, place)
        patterns = [pattern for pattern in text.targets if pattern not in ("*", "own")]
        globs = [pattern for pattern in patterns if "*" in pattern or "?" in pattern]
        exact = [str(Target.parse(pattern)) for pattern in patterns if pattern not in globs]
        return Rule(
            name=text.name,
            everyone=everyone,
            uids=uids,
            gids=gids,
            units=units,
            anything="*" in text.targets,
            own="own" in text.targets,
            exact=frozenset(exact),
            globs=re.compile("|".join(map(_regex, globs))) if globs else None,
            kinds=frozenset(pattern.partition(":")[0] for pattern in patterns),
            allowance=allowance,
        )

    def _who(self, text: RuleText, place: str) -> tuple[bool, frozenset[int], frozenset[int], frozenset[str]]:
        everyone = False
        uids: set[int] = set()
        gids: set[int] = set()
        units: set[str] = set()
        for who in [text.who] if isinstance(text.who, str) else text.who:
            kind, _, name = who.partition(":")
            number = None
            if who == "everyone":
                everyone = True
            elif kind == "unit" and name.endswith(UNIT_SUFFIXES):
                units.add(name)
            elif kind == "user" and name:
                uids.update(() if (number := _uid(name)) is None else (number,))
            elif kind == "group" and name:
                gids.update(() if (number := _gid(name)) is None else (number,))
            else:
                raise ConfigurationError(f"who: {who!r} is none of user:NAME, group:NAME, unit:NAME.service, everyone")
            if kind in ("user", "group") and number is None:
                self.warnings.append(f"{place}: there is no {kind} {name!r} here: it fits nobody")
            if (kind == "unit" or (kind == "user" and number == 0)) and not features().peer_pidfd:
                self.warnings.append(f"{place}: {who} fits nobody: {NO_PEER_PIDFD}")
        return everyone, frozenset(uids), frozenset(gids), frozenset(units)


def _uid(name: str) -> int | None:
    try:
        return int(name) if name.isascii() and name.isdigit() else pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):
        return None


def _gid(name: str) -> int | None:
    try:
        return int(name) if name.isascii() and name.isdigit() else grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        return None


def _regex(pattern: str) -> str:
    kind, colon, _ = pattern.partition(":")
    if not colon or kind not in KINDS:
        raise InvalidTarget(f"targets: {pattern!r} is no pattern: write 'own', '*', or a target with '*' in it, such as name:web-*")
    first, *rest = (_fixed(piece) for piece in re.split(r"\*+", pattern))
    if not rest:
        return first
    # What follows a '*' is looked for once, from the left, and never again further on: the time is linear.  Only the last
    # piece has to be where the text ends.
    return first + "".join(f"(?>[^/]*?{piece})" for piece in rest[:-1]) + f"[^/]*{rest[-1]}"


def _fixed(piece: str) -> str:
    return "".join("[^/]" if character == "?" else re.escape(character) for character in piece)
