"""The policy: what each peer may do.  The rules are compiled once, and consulted on every call.

Everything is denied by default, and rules only allow.  A rule's pattern is a target in which `*` stands for any characters but
'/', and `?` for one such character.  Two patterns are words: `own` (what is the peer's own, such as a process whose uids are
all the peer's) and `*` (anything).
"""

import grp
import pwd
import re
import time

from nsbroker.daemon.configuration import Configuration, RuleText, SourcedRule
from nsbroker.daemon.peer import NO_PEER_PIDFD, Peer
from nsbroker.daemon.policy.grants import Grants, Rule, index
from nsbroker.daemon.policy.permission import Allowance
from nsbroker.errors import ConfigurationError, InvalidTarget, InvalidType
from nsbroker.linux.features import features
from nsbroker.model.target import KINDS, UNIT_SUFFIXES, Target

# How many peers' grants, and the grants of how many sets of rules, are kept in caches.
_CACHE_MAX = 1024
_SHARED_MAX = 256


class Policy:
    """All rules in force.  Raises ConfigurationError for a rule that cannot be understood."""

    def __init__(self, configuration: Configuration) -> None:
        self.warnings: list[str] = []
        self.rules = tuple(self._compile(rule) for rule in configuration.rules)
        self.loaded = time.time()
        self.has_units = any(rule.units for rule in self.rules)
        # Numbers of rules (their indexes in `rules`), by the peers that they fit.
        self._everyone = [number for number, rule in enumerate(self.rules) if rule.everyone]
        self._uids = index((uid, number) for number, rule in enumerate(self.rules) for uid in rule.uids)
        self._gids = index((gid, number) for number, rule in enumerate(self.rules) for gid in rule.gids)
        self._units = index((unit, number) for number, rule in enumerate(self.rules) for unit in rule.units)
        self._grants: dict[tuple[object, ...], Grants] = {}
        self._by_rules: dict[tuple[int, ...], Grants] = {}

    def grants(self, peer: Peer) -> Grants:
        """Return the rules that fit `peer` now.  Its unit is read anew on each call, when there is a rule for any unit."""
        unit = peer.unit() if self.has_units else None
        key = (peer.uid, peer.groups, peer.anonymous, unit)
        grants = self._grants.get(key)
        if grants is None:
            grants = self._share_grants(tuple(sorted(self._find_rules(peer, unit))))
            if len(self._grants) >= _CACHE_MAX:
                self._grants.clear()
            self._grants[key] = grants
        return grants

    def _share_grants(self, numbers: tuple[int, ...]) -> Grants:
        """Return the grants of these rules.  Peers that the same rules fit share them, however many uids a user has."""
        grants = self._by_rules.get(numbers)
        if grants is None:
            if len(self._by_rules) >= _SHARED_MAX:
                self._by_rules.clear()
            grants = self._by_rules[numbers] = Grants([self.rules[number] for number in numbers])
        return grants

    def _find_rules(self, peer: Peer, unit: str | None) -> set[int]:
        """Return the numbers of the rules whose `who` includes this peer."""
        fitting = set(self._everyone)
        if not peer.anonymous:
            fitting.update(self._uids.get(peer.uid, ()))
            fitting.update(number for gid in peer.groups for number in self._gids.get(gid, ()))
            fitting.update(self._units.get(unit, ()) if unit is not None else ())
        return fitting

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
        allowance = Allowance.parse(text.namespaces, text.sockets, text.devices, text.create, text.hold)
        everyone, uids, gids, units = self._compile_who(text, place)
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
            globs=re.compile("|".join(map(_compile_pattern, globs))) if globs else None,
            beginnings=frozenset(re.split(r"[*?]", pattern, maxsplit=1)[0] for pattern in globs),
            kinds=frozenset(pattern.partition(":")[0] for pattern in patterns),
            allowance=allowance,
        )

    def _compile_who(self, text: RuleText, place: str) -> tuple[bool, frozenset[int], frozenset[int], frozenset[str]]:
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
                uids.update(() if (number := _find_uid(name)) is None else (number,))
            elif kind == "group" and name:
                gids.update(() if (number := _find_gid(name)) is None else (number,))
            else:
                raise ConfigurationError(f"who: {who!r} is none of user:NAME, group:NAME, unit:NAME.service, everyone")
            if kind in ("user", "group") and number is None:
                self.warnings.append(f"{place}: there is no {kind} {name!r} on this host, so that fits nobody")
            if (kind == "unit" or (kind == "user" and number == 0)) and not features().peer_pidfd:
                self.warnings.append(f"{place}: {who} fits nobody: {NO_PEER_PIDFD}")
        return everyone, frozenset(uids), frozenset(gids), frozenset(units)


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
