"""Restrictions: what a connection may still do after it has given rights away.

Each call of Restrict adds a scope, and what is allowed is what the policy and all these scopes allow.  So a further scope can
only take rights away, as with cap_limit_set(3) of FreeBSD's Casper.
"""

from collections.abc import Iterable

from msgspec import Struct

from nsbroker.daemon.policy.permission import MARK_MAX, Creation, Device, File, Holding, Permission
from nsbroker.daemon.policy.scope import Names, Scope
from nsbroker.errors import QuotaExceeded
from nsbroker.model.identity import NamespaceType
from nsbroker.model.interface import InterfaceKind
from nsbroker.model.target_file import NAMES

# Every call of a restricted connection looks at all its scopes, and their patterns take memory.
_SCOPES_MAX = 4


class Restriction(Struct, frozen=True):
    """The scopes that all have to allow what a connection asks for.  Without scopes, everything is allowed."""

    scopes: tuple[Scope, ...] = ()
    texts: tuple[str, ...] = ()
    """The targets of each scope, as the peer wrote them."""

    def narrow(self, scope: Scope, text: str) -> "Restriction":
        """Return what remains within `scope`, whose targets are `text`.  Raises QuotaExceeded for one scope too many."""
        if scope in self.scopes:
            return self
        if len(self.scopes) == _SCOPES_MAX:
            raise QuotaExceeded("restrictions of one connection")
        return Restriction((*self.scopes, scope), (*self.texts, text))

    def allows(self, wanted: Permission) -> bool:
        """Return whether it allows `wanted` of some target."""
        return all(scope.allowance.allows(wanted) for scope in self.scopes)

    def namespaces(self) -> frozenset[NamespaceType]:
        """Return the types of namespaces that it allows to open."""
        return frozenset(NamespaceType).intersection(*(scope.allowance.namespaces for scope in self.scopes))

    def includes(self, names: Names, *, own: bool) -> bool:
        """Return whether it allows anything of the target with these names; `own`: the target can be the peer's own."""
        return all((own and scope.own) or scope.is_named(names) for scope in self.scopes)

    def is_named(self, names: Names) -> bool:
        """Return whether all scopes name the target."""
        return all(scope.is_named(names) for scope in self.scopes)

    def is_named_exactly(self, name: str) -> bool:
        """Return whether all scopes have this exact name, or are for anything."""
        return all(scope.has_exactly((name,)) for scope in self.scopes)

    def is_for_anything(self) -> bool:
        """Return whether all scopes are for any target."""
        return all(scope.anything for scope in self.scopes)

    def has_own(self) -> bool:
        """Return whether a scope is for what is the peer's own."""
        return any(scope.own for scope in self.scopes)

    def includes_kinds(self, kinds: set[str], *, own: bool) -> bool:
        """Return whether all scopes can have a target of one of these kinds; `own`: also one that is the peer's own."""
        return all(scope.anything or (own and scope.own) or not scope.kinds.isdisjoint(kinds) for scope in self.scopes)

    def has_kind(self, kind: str) -> bool:
        """Return whether a scope has a pattern for targets of this kind."""
        return any(kind in scope.kinds for scope in self.scopes)

    def targets_text(self) -> str:
        """Return what targets remain, for the record: those of each scope, with '&' between the scopes."""
        return " & ".join(self.texts)

    def permissions_text(self) -> str:
        """Return what permissions remain, for the record: as a rule has them, with '*' for all."""
        allowances = [scope.allowance for scope in self.scopes]
        kinds = sorted({kind for allowance in allowances for kind in allowance.sockets})
        names = sorted({name for allowance in allowances for name in allowance.devices})
        permissions = {
            "namespaces": _type_words(self.namespaces()),
            "sockets": ["*"] if all(one.any_socket for one in allowances) else [str(kind) for kind in kinds if self.allows(kind)],
            "marks": _mark_words(allowance.marks for allowance in allowances),
            "devices": ["*"] if all(one.any_device for one in allowances) else [one for one in names if self.allows(Device(one))],
            "files": _all_or(NAMES, (name for name in NAMES if self.allows(File(name)))),
            "interfaces": _all_or(InterfaceKind, (kind for kind in InterfaceKind if self.allows(kind))),
            "create": _type_words(ns_type for ns_type in NamespaceType if self.allows(Creation(ns_type))),
            "hold": _type_words(ns_type for ns_type in NamespaceType if self.allows(Holding(ns_type))),
        }
        return ", ".join(f"{name} {' '.join(words)}" for name, words in permissions.items() if words) or "nothing"


def _type_words(types: Iterable[NamespaceType]) -> list[str]:
    return _all_or(NamespaceType, types)


def _all_or(everything: Iterable[str], some: Iterable[str]) -> list[str]:
    found = set(some)
    return ["*"] if found == set(everything) else sorted(found)


def _mark_words(allowed: Iterable[Iterable[range]]) -> list[str]:
    """Return the marks that are in a range of each of `allowed`, as a rule has them."""
    left = [range(1, MARK_MAX + 1)]
    for ranges in allowed:
        pairs = ((one, other) for one in left for other in _joined(ranges))
        left = [both for one, other in pairs if (both := range(max(one.start, other.start), min(one.stop, other.stop)))]
    return [_mark_word(marks) for marks in left]


def _joined(ranges: Iterable[range]) -> list[range]:
    """Return the ranges in order, with those that overlap or touch joined."""
    joined: list[range] = []
    for marks in sorted(ranges, key=lambda marks: marks.start):
        if joined and marks.start <= joined[-1].stop:
            joined[-1] = range(joined[-1].start, max(joined[-1].stop, marks.stop))
        else:
            joined.append(marks)
    return joined


def _mark_word(marks: range) -> str:
    if marks == range(1, MARK_MAX + 1):
        return "*"
    return f"{marks.start:#x}" if len(marks) == 1 else f"{marks.start:#x}-{marks.stop - 1:#x}"


UNRESTRICTED = Restriction()
"""Takes nothing away."""
