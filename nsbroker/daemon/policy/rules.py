"""The policy: what each peer may do.  The rules are compiled once, and consulted on every call.

Everything is denied by default, and rules only allow.
"""

import grp
import math
import pwd
import re
import time
from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from nsbroker.daemon.configuration import Configuration, RuleText, SourcedRule
from nsbroker.daemon.peer import NO_PEER_PIDFD, Peer
from nsbroker.daemon.policy.grants import Grants, Rule, index
from nsbroker.daemon.policy.permission import Allowance
from nsbroker.daemon.policy.scope import NamePatterns
from nsbroker.errors import ConfigurationError, InvalidTarget, InvalidType
from nsbroker.linux.features import features
from nsbroker.model.target import ENGINES, UNIT_SUFFIXES

# What `who` can name beside users, groups and units: containers.
_WORKLOAD_KINDS = ("container", *ENGINES)
_WHO_FORMS = "user:NAME, group:NAME, unit:NAME.service, everyone, or a container such as docker:web, cri:default/agent-*"
# How many peers' grants, and the grants of how many sets of rules, are kept in caches.
_CACHE_MAX = 1024
_SHARED_MAX = 256


class Policy:
    """All rules in force.  Raises ConfigurationError for a rule that cannot be understood."""

    def __init__(self, configuration: Configuration) -> None:
        self.warnings: list[str] = []
        self.loaded = time.time()
        self.rules = tuple(self._drop_ended(self._compile(rule) for rule in configuration.rules))
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
        key = (peer.uid, peer.groups, peer.anonymous, unit, names)
        grants = self._grants.get(key)
        if grants is None:
            grants = self._share_grants(tuple(sorted(self._find_rules(peer, unit, names))))
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

    def _end_rules(self) -> None:
        """Let the rules whose time is over fit nobody.  They stay ended, even if the clock is set back."""
        now = time.time()
        for number, rule in enumerate(self.rules):
            if rule.until <= now and number not in self._ended:
                self._ended.add(number)
                self._ended_since.append(rule.name)
        self._next_end = min((rule.until for number, rule in enumerate(self.rules) if number not in self._ended), default=math.inf)
        self._grants.clear()

    def _drop_ended(self, rules: Iterable[Rule]) -> Iterator[Rule]:
        """Return the rules without those that had ended before they were loaded, of which it warns."""
        for rule in rules:
            if rule.until > self.loaded:
                yield rule
            else:
                self.warnings.append(f"rule {rule.name!r} has ended (until), so it fits nobody: remove it")

    def _share_grants(self, numbers: tuple[int, ...]) -> Grants:
        """Return the grants of these rules.  Peers that the same rules fit share them, however many uids a user has."""
        grants = self._by_rules.get(numbers)
        if grants is None:
            if len(self._by_rules) >= _SHARED_MAX:
                self._by_rules.clear()
            grants = self._by_rules[numbers] = Grants([self.rules[number] for number in numbers])
        return grants

    def _find_rules(self, peer: Peer, unit: str | None, workload_names: Sequence[str]) -> set[int]:
        """Return the numbers of the rules whose `who` includes this peer."""
        fitting = set(self._everyone)
        if not peer.anonymous:
            fitting.update(self._uids.get(peer.uid, ()))
            fitting.update(number for gid in peer.groups for number in self._gids.get(gid, ()))
            fitting.update(self._units.get(unit, ()) if unit is not None else ())
        # Also for an anonymous peer: its uid proves nothing, but the container does.
        for number in self._workloads if workload_names else ():
            if any(map(self.rules[number].workloads.fits, workload_names)):
                fitting.add(number)
        return fitting - self._ended

    def _compile(self, rule: SourcedRule) -> Rule:
        text, origin = rule
        try:
            return self._compile_text(text, f"{origin}: rule {text.name!r}")
        except (ConfigurationError, InvalidTarget, InvalidType) as error:
            raise ConfigurationError(f"{origin}: rule {text.name!r}: {error}") from error

    def _compile_text(self, text: RuleText, place: str) -> Rule:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", text.name):
            raise ConfigurationError(
                "a rule's name has only letters, digits, '_', '.' and '-', and begins with a letter or a digit"
            )
        if not text.who or not text.targets:
            raise ConfigurationError("it fits nothing: give `who` and `targets` at least one entry each")
        words = (text.namespaces, text.sockets, text.devices, text.create, text.hold, text.marks, text.interfaces, text.files)
        if not any(words):
            raise ConfigurationError(
                "it allows nothing: give it namespaces, sockets, marks, devices, files, interfaces, create or hold"
            )
        allowance = Allowance.parse(*words)
        who = self._compile_who(text, place)
        return Rule.parse(
            text.targets,
            allowance,
            name=text.name,
            everyone=who.everyone,
            uids=frozenset(who.uids),
            gids=frozenset(who.gids),
            units=frozenset(who.units),
            workloads=NamePatterns.parse(who.workloads),
            workload_engines=frozenset(pattern.partition(":")[0] for pattern in who.workloads),
            until=_compile_until(text),
        )

    def _compile_who(self, text: RuleText, place: str) -> "_Who":
        compiled = _Who([], [], [], [])
        for who in [text.who] if isinstance(text.who, str) else text.who:
            kind, _, name = who.partition(":")
            fits = True
            if who == "everyone":
                compiled.everyone = True
            elif kind == "unit" and name.endswith(UNIT_SUFFIXES):
                compiled.units.append(name)
            elif kind == "user" and name:
                fits = _append(compiled.uids, _find_uid(name))
            elif kind == "group" and name:
                fits = _append(compiled.gids, _find_gid(name))
            elif kind in _WORKLOAD_KINDS and name:
                compiled.workloads.append(who)
            elif kind == "compose":
                raise ConfigurationError(f"who: {who!r}: an image can claim any project and service: name the container instead")
            else:
                raise ConfigurationError(f"who: {who!r} is none of {_WHO_FORMS}")
            if not fits:
                self.warnings.append(f"{place}: there is no {kind} {name!r} on this host, so that fits nobody")
            is_root = kind == "user" and compiled.uids[-1:] == [0]
            if (kind in ("unit", *_WORKLOAD_KINDS) or is_root) and not features().peer_pidfd:
                self.warnings.append(f"{place}: {who} fits nobody: {NO_PEER_PIDFD}")
        return compiled


class _Who(Struct):
    """The entries of `who` by their kinds."""

    uids: list[int]
    gids: list[int]
    units: list[str]
    workloads: list[str]
    everyone: bool = False


def _append(found: list[int], number: int | None) -> bool:
    """Append a number that was found; return whether it was."""
    if number is not None:
        found.append(number)
    return number is not None


def _compile_until(text: RuleText) -> float:
    if text.until is None:
        return math.inf
    if text.until.tzinfo is None:
        raise ConfigurationError("until: write the time with its zone, such as 2026-12-01T18:00:00Z")
    return text.until.timestamp()


def _find_uid(name: str) -> int | None:
    try:
        return int(name) if name.isascii() and name.isdigit() else pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):
        return None


def _find_gid(name: str) -> int | None:
    try:
        return int(name) if name.isascii() and name.isdigit() else grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        return None
