"""What all verbs work with."""

from dataclasses import dataclass, field

from nsbroker.daemon.audit import Audit
from nsbroker.daemon.engines.registry import Roster
from nsbroker.daemon.limits.abandonable_threads import AbandonableThreads
from nsbroker.daemon.limits.connections import UserRegistry
from nsbroker.daemon.limits.created import CreatedNamespaces
from nsbroker.daemon.policy.rules import Policy
from nsbroker.daemon.targets.held_store import Holder
from nsbroker.daemon.targets.location_cache import Hints


@dataclass(slots=True)
class Parts:
    """The broker's parts.  `policy` and `roster` are replaced when the configuration is read again."""

    policy: Policy
    roster: Roster
    holder: Holder
    users: UserRegistry
    audit: Audit
    created: CreatedNamespaces
    threads: AbandonableThreads
    hints: Hints = field(default_factory=Hints)
