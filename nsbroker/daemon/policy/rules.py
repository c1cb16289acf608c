"""The policy: what each peer may do.  The rules are compiled once, and consulted on every call.

Everything is denied by default, and rules only allow.
"""

import grp
import math
import pwd
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Self, TypeAlias

from nsbroker.daemon.configuration import Configuration, Parsed, Problem, SourcedRule, error_of, problems, read
from nsbroker.daemon.pace import Step, no_pause
from nsbroker.daemon.peer import NO_PEER_PIDFD, Peer
from nsbroker.daemon.policy.frozen_sets import frozen
from nsbroker.daemon.policy.grants import Grants, Rule, index
from nsbroker.daemon.policy.permission import Allowance
from nsbroker.daemon.policy.scope import NamePatterns, why_fits_nothing
from nsbroker.errors import ConfigurationError, InvalidTarget, InvalidType
from nsbroker.linux.features import features
from nsbroker.model.target import ENGINES, UNIT_SUFFIXES

# What `who` can name beside users, groups and units: containers.
WORKLOAD_KINDS = ("container", *ENGINES)
_WHO_FORMS = "user:NAME, group:NAME, unit:NAME.service, everyone, or a container such as docker:web, cri:default/agent-*"
# How many peers' grants, and the grants of how many sets of rules, are kept in caches.
_CACHE_MAX = 1024
_SHARED_MAX = 256
_NO_GROUPS: frozenset[int] = frozenset()
_RULE_ERRORS = (ConfigurationError, InvalidTarget, InvalidType)
PERMISSIONS = ("namespaces", "sockets", "marks", "devices", "files", "interfaces", "create", "hold")
"""The keys of a rule that say what it allows."""
_Allowances: TypeAlias = dict[tuple[tuple[str, ...], ...], Allowance]
"""What rules allow, by the words that say so, in the order of `PERMISSIONS`."""


def load(place: Path | None = None) -> "tuple[Configuration, Policy]":
    """Load the configuration and compile its rules.  Raises ConfigurationError with everything that is wrong in any file.

    `place` is as in `configuration.load`.
    """
    return Loader(place).load()


class Loader:
    """Loads the configuration at one place, as `load` does, and again after changes.

    What has not changed is neither parsed nor compiled again: with thousands of rules that takes a second of CPU time, during
    which all calls are slower.
    """

    def __init__(self, place: Path | None) -> None:
        self._place = place
        self._parsed: dict[Path, Parsed] = {}
        self._compiled: dict[int, _Compiled] = {}

    def load(self, step: Step = no_pause) -> "tuple[Configuration, Policy]":
        """Load it, and call `step` again and again meanwhile.  Raises ConfigurationError."""
        settings, found, broken, self._parsed = read(self._place, self._parsed, step)
        if found:
            for rule in settings.rules:
                step()
                if id(rule) not in self._compiled:
                    found += _find_mistakes(rule, is_whole=(rule.origin, rule.number) not in broken)
            raise error_of(found)
        policy = Policy(settings, self._compiled, step)
        self._compiled = policy.compiled
        return settings, policy


class Policy:
    """All rules in force.  Raises ConfigurationError with all rules that cannot be understood."""

    def __init__(
        self, configuration: Configuration, earlier: "Mapping[int, _Compiled]" = MappingProxyType({}), step: Step = no_pause
    ) -> None:
        self.loaded = time.time()
        self.ended: list[Rule] = []
        """The rules that had ended before they were loaded."""
        compiled = _compile_all(configuration.rules, earlier, step)
        self.compiled = {id(one.source): one for one in compiled}
        """What was compiled, by the identity of its source."""
        doubts = [doubt for one in compiled for doubt in one.doubts]
        rules = [one.rule for one in compiled]
        self.rules = tuple(self._drop_ended(configuration.rules, rules, doubts))
        self.warnings = [*configuration.warnings(), *problems.lines(doubts)]
        self._ended: set[int] = set()
        self._ended_since: list[str] = []
        self._next_end = min((rule.until for rule in self.rules), default=math.inf)
        self.has_units = any(rule.units for rule in self.rules)
        self._workloads = [number for number, rule in enumerate(self.rules) if rule.workloads != NamePatterns()]
        self.workload_engines = frozenset().union(*(self.rules[number].workload_engines for number in self._workloads))
        """The engines that have to be asked in which container a peer is; empty when no rule is for containers."""
        # Numbers of rules (their indexes in `rules`), by the peers that they fit.
        self._everyone = [number for number, rule in enumerate(self.rules) if rule.everyone]
        self._uids = index((uid, number) for number, rule in enumerate(self.rules) for uid in rule.uids)
        self._gids = index((gid, number) for number, rule in enumerate(self.rules) for gid in rule.gids)
        self._named_gids = frozenset(self._gids)
        self._units = index((unit, number) for number, rule in enumerate(self.rules) for unit in rule.units)
        self._grants: dict[tuple[object, ...], Grants] = {}
        self._by_rules: dict[tuple[int, ...], Grants] = {}

    def grants(self, peer: Peer) -> Grants:
        """Return the rules that fit `peer` now.  Its unit is read anew on each call, when there is a rule for any unit."""
        if time.time() >= self._next_end:
            self._end_rules()
        unit = peer.unit() if self.has_units else None
        workload = peer.workload() if self._workloads else None
        names = () if workload is None else workload.names
        # Only groups that rules name: a user can have any number of processes, each with 65536 other groups.
        groups = peer.groups_among(self._named_gids) if self._named_gids and not peer.anonymous else _NO_GROUPS
        key = (peer.uid, groups, peer.anonymous, unit, names)
        grants = self._grants.get(key)
        if grants is None:
            grants = self._share_grants(tuple(sorted(self._find_rules(peer, groups, unit, names))))
            if len(self._grants) >= _CACHE_MAX:
                self._grants.clear()
            self._grants[key] = grants
        return grants

    def seconds_to_next_end(self) -> float:
        """Return how long it takes until the next rule ends; infinity when none does."""
        return max(0.0, self._next_end - time.time())

    def take_ended(self) -> list[str]:
        """Return the names of the rules that ended since the last call."""
        if time.time() >= self._next_end:
            self._end_rules()
        ended, self._ended_since = self._ended_since, []
        return ended

    def all_rules(self) -> "Iterator[tuple[Rule, bool]]":
        """Yield each rule, and whether its time is over."""
        now = time.time()
        for number, rule in enumerate(self.rules):
            yield rule, number in self._ended or rule.until <= now
        for rule in self.ended:
            yield rule, True

    def _end_rules(self) -> None:
        """Let the rules whose time is over fit nobody.  They stay ended, even if the clock is set back."""
        now = time.time()
        for number, rule in enumerate(self.rules):
            if rule.until <= now and number not in self._ended:
                self._ended.add(number)
                self._ended_since.append(rule.name)
        self._next_end = min((rule.until for number, rule in enumerate(self.rules) if number not in self._ended), default=math.inf)
        self._grants.clear()

    def _drop_ended(self, sourced: Iterable[SourcedRule], rules: Iterable[Rule], doubts: list[Problem]) -> Iterator[Rule]:
        """Return the rules without those that had ended before they were loaded, of which it warns."""
        for rule, source in zip(rules, sourced, strict=True):
            if rule.until > self.loaded:
                yield rule
            else:
                self.ended.append(rule)
                doubts.append(problems.of_rule(source, "its time is over, so it fits nobody: remove the rule", "until"))

    def _share_grants(self, numbers: tuple[int, ...]) -> Grants:
        """Return the grants of these rules.  Peers that the same rules fit share them, however many uids a user has."""
        grants = self._by_rules.get(numbers)
        if grants is None:
            if len(self._by_rules) >= _SHARED_MAX:
                self._by_rules.clear()
            grants = self._by_rules[numbers] = Grants([self.rules[number] for number in numbers])
        return grants

    def _find_rules(self, peer: Peer, groups: Iterable[int], unit: str | None, workload_names: Sequence[str]) -> set[int]:
        """Return the numbers of the rules whose `who` includes this peer, which is in these of the groups that rules name."""
        fitting = set(self._everyone)
        if not peer.anonymous:
            fitting.update(self._uids.get(peer.uid, ()))
            fitting.update(number for gid in groups for number in self._gids[gid])
            fitting.update(self._units.get(unit, ()) if unit is not None else ())
        # Also for an anonymous peer: its uid proves nothing, but the container does.
        for number in self._workloads if workload_names else ():
            if any(map(self.rules[number].workloads.fits, workload_names)):
                fitting.add(number)
        return fitting - self._ended


def _compile_all(sourced: Iterable[SourcedRule], earlier: "Mapping[int, _Compiled]", step: Step) -> "list[_Compiled]":
    """Compile the rules, but those that an `earlier` policy compiled for the same users.  Raises ConfigurationError."""
    found: list[_Compiled] = []
    mistakes: list[Problem] = []
    # Thousands of rules can be for the same users, and allow the same.
    audiences: dict[tuple[str, ...], _Audience] = {}
    allowances: _Allowances = {}
    for source in sourced:
        step()
        try:
            words = source.text.who
            # Users and groups can have been added or removed meanwhile.
            audience = audiences.get(words) or audiences.setdefault(words, _Audience.parse(words))
            known = earlier.get(id(source))
            if known is None or known.who != audience.who:
                rule = _compile(source, audience, allowances)
                known = _Compiled(source, audience.who, rule, tuple(_find_doubts(source, audience.who)))
            found.append(known)
        except _RULE_ERRORS:
            mistakes += _find_mistakes(source, is_whole=True)
    if mistakes:
        raise error_of(mistakes)
    return found


class _Compiled(NamedTuple):
    """A compiled rule.  `doubts` are what fits nobody or nothing in it."""

    source: SourcedRule
    who: "tuple[_Who, ...]"
    rule: Rule
    doubts: tuple[Problem, ...]


class _Who(NamedTuple):
    """An entry of `who`.  `number` is the uid or gid of a user or group; None when this host does not know the name."""

    word: str
    kind: str
    name: str
    number: int | None

    @classmethod
    def parse(cls, word: str) -> Self:
        """Read an entry, and look the user or group up.  Raises ConfigurationError."""
        kind, _, name = word.partition(":")
        if kind == "compose":
            raise ConfigurationError(f"{word!r}: an image can claim any project and service: name the container instead")
        is_known = name.endswith(UNIT_SUFFIXES) if kind == "unit" else kind in ("user", "group", *WORKLOAD_KINDS) and bool(name)
        if not is_known and word != "everyone":
            raise ConfigurationError(f"{word!r} is none of {_WHO_FORMS}")
        find = {"user": find_uid, "group": find_gid}.get(kind)
        return cls(word, kind, name, find(name) if find else None)

    @property
    def is_container(self) -> bool:
        """Whether it names containers."""
        return self.kind in WORKLOAD_KINDS


class _Audience(NamedTuple):
    """Those whom a rule is for: the entries of its `who`, and the fields of `Rule` that they lead to."""

    who: tuple[_Who, ...]
    fields: Mapping[str, Any]

    @classmethod
    def parse(cls, words: Iterable[str]) -> Self:
        """Read the entries, and look their users and groups up.  Raises ConfigurationError, InvalidTarget."""
        who = tuple(map(_Who.parse, words))
        containers = [one.word for one in who if one.is_container]
        fields = {
            "everyone": any(one.kind == "everyone" for one in who),
            "uids": frozen(one.number for one in who if one.kind == "user" and one.number is not None),
            "gids": frozen(one.number for one in who if one.kind == "group" and one.number is not None),
            "units": frozen(one.name for one in who if one.kind == "unit"),
            "workloads": NamePatterns.parse(containers),
            "workload_engines": frozen(pattern.partition(":")[0] for pattern in containers),
        }
        return cls(who, fields)


def _compile(source: SourcedRule, audience: _Audience, allowances: _Allowances) -> Rule:
    """Compile a rule.  What it allows is taken from `allowances`, or added to them.  Raises the errors in `_RULE_ERRORS`."""
    text = source.text
    if not audience.who or not text.targets:
        raise ConfigurationError("it fits nothing: give `who` and `targets` at least one entry each")
    words = tuple(getattr(text, key) for key in PERMISSIONS)
    if not any(words):
        raise ConfigurationError(f"it allows nothing: give it {', '.join(PERMISSIONS[:-1])} or {PERMISSIONS[-1]}")
    allowance = allowances.get(words)
    if allowance is None:
        allowance = allowances[words] = Allowance.parse(**dict(zip(PERMISSIONS, words, strict=True)))
    until = math.inf if text.until is None else text.until.timestamp()
    return Rule.parse(text.targets, allowance, name=text.name, origin=source.origin, until=until, **audience.fields)


def _find_mistakes(source: SourcedRule, *, is_whole: bool) -> list[Problem]:
    """Return everything that is wrong in a rule.  Without `is_whole`, parts of it are missing, so only its words are looked at."""
    text = source.text
    found: list[Problem] = []
    for key in ("who", "targets", *PERMISSIONS):
        for number, word in enumerate(getattr(text, key)):
            try:
                _check_word(key, word)
            except _RULE_ERRORS as error:
                found.append(problems.of_rule(source, str(error), key, number))
    if is_whole and not found:
        try:
            _compile(source, _Audience.parse(text.who), {})
        except _RULE_ERRORS as error:
            found.append(problems.of_rule(source, str(error)))
    return found


def _check_word(key: str, word: str) -> None:
    """Check one entry of a list in a rule.  Raises the errors in `_RULE_ERRORS`."""
    if key == "who":
        if _Who.parse(word).is_container:
            NamePatterns.parse([word])
    elif key == "targets":
        NamePatterns.parse([word] if word not in ("*", "own") else [])
    else:
        Allowance.parse(**{key: [word]})


def _find_doubts(source: SourcedRule, who: Iterable[_Who]) -> Iterator[Problem]:
    """Yield the words of a rule that fit nobody or nothing."""
    for number, one in enumerate(who):
        reasons = []
        if one.kind in ("user", "group") and one.number is None:
            reasons.append(f"there is no {one.kind} {one.name!r} on this host, so that fits nobody")
        if (one.kind == "unit" or one.is_container or (one.kind, one.number) == ("user", 0)) and not features().peer_pidfd:
            reasons.append(f"{one.word} fits nobody: {NO_PEER_PIDFD}")
        if one.is_container and (why := why_fits_nothing(one.word)):
            reasons.append(f"{one.word!r} fits nobody: {why}")
        for reason in reasons:
            yield problems.of_rule(source, reason, "who", number)
    for number, word in enumerate(source.text.targets):
        if why := why_fits_nothing(word):
            yield problems.of_rule(source, f"{word!r} fits nothing: {why}", "targets", number)


def find_uid(name: str) -> int | None:
    """Return the uid of a user, who is named by name or number; None for a name that this host does not know."""
    try:
        return int(name) if name.isascii() and name.isdigit() else pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):
        return None


def find_gid(name: str) -> int | None:
    """Return the gid of a group, which is named by name or number; None for a name that this host does not know."""
    try:
        return int(name) if name.isascii() and name.isdigit() else grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        return None
