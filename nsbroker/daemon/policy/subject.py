"""Subjects: somebody who is not connected, for whom root asks what the policy allows."""

import os
import pwd
from collections.abc import Sequence
from typing import NamedTuple, Self

from nsbroker.daemon.policy.grants import Rule, names_of
from nsbroker.daemon.policy.rules import WORKLOAD_KINDS, find_gid, find_uid
from nsbroker.daemon.policy.scope import Names
from nsbroker.errors import ConfigurationError
from nsbroker.linux.credentials import Credentials
from nsbroker.model.target import Target

_UID_MAX = 2**32 - 2


class Subject(NamedTuple):
    """A user, with the groups, the unit and the container of one of the user's processes."""

    uid: int
    gid: int
    groups: frozenset[int]
    unit: str | None
    container: Names

    @classmethod
    def parse(cls, words: Sequence[str]) -> Self:
        """Read entries as in `who`: one user, any number of further groups, at most one unit and one container.

        The groups of the user are those of the host's user database.  A number that it does not know has as its own group the first
        one that is given, or else the one with the same number.  Raises ConfigurationError, InvalidTarget.
        """
        by_kind: dict[str, list[str]] = {}
        for word in words:
            kind, _, name = word.partition(":")
            by_kind.setdefault("container" if kind in WORKLOAD_KINDS else kind, []).append(word if kind in WORKLOAD_KINDS else name)
        users, units, containers = (by_kind.get(kind, []) for kind in ("user", "unit", "container"))
        if len(users) != 1 or len(units) > 1 or len(containers) > 1 or by_kind.keys() - {"user", "group", "unit", "container"}:
            raise ConfigurationError("write one user:NAME, and if needed group:NAME, unit:NAME.service and container:NAME")
        uid = find_uid(users[0])
        groups = [gid for name in by_kind.get("group", []) if (gid := find_gid(name)) is not None]
        if uid is None or uid > _UID_MAX or len(groups) != len(by_kind.get("group", [])):
            raise ConfigurationError("there is no such user or group on this host")
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            gid = groups[0] if groups else uid
        else:
            gid = entry.pw_gid
            groups += os.getgrouplist(entry.pw_name, gid)
        unit = Target.unit(units[0]).value if units else None
        container = names_of(Target.parse(containers[0])) if containers else ()
        return cls(uid, gid, frozenset((gid, *groups)), unit, container)

    @property
    def credentials(self) -> Credentials:
        """The uid and the gid."""
        return Credentials(self.uid, self.gid)

    def owns(self, uid: int) -> bool:
        """Return whether things of the user `uid` are this user's own."""
        return self.uid == uid

    def is_in(self, rule: Rule) -> bool:
        """Return whether `who` of the rule includes this subject."""
        is_user = rule.everyone or self.uid in rule.uids or not rule.gids.isdisjoint(self.groups) or self.unit in rule.units
        return is_user or any(map(rule.workloads.fits, self.container))
