"""The parts of the daemon that all methods share."""

from msgspec import Struct, field

from nsbroker.daemon.audit import Audit
from nsbroker.daemon.engines.registry import EngineRegistry
from nsbroker.daemon.limits.abandonable_threads import AbandonableThreads
from nsbroker.daemon.limits.added_interfaces import AddedInterfaces
from nsbroker.daemon.limits.connections import UserRegistry
from nsbroker.daemon.limits.created import CreatedNamespaces
from nsbroker.daemon.policy.rules import Policy
from nsbroker.daemon.targets.held_store import HeldStore
from nsbroker.daemon.targets.location_cache import LocationCache


class Context(Struct):
    """What the methods need: policy, engines, stores, limits, audit.  A reload replaces `policy` and `engines`.

    `configuration_fault` says why the configuration was broken at the start, so that no configuration is in force; `reload_fault`
    says why the last reload failed, so that the policy of before is in force.  Both are "" if all is well.
    """

    policy: Policy
    engines: EngineRegistry
    held_store: HeldStore
    users: UserRegistry
    audit: Audit
    created: CreatedNamespaces
    interfaces: AddedInterfaces
    threads: AbandonableThreads
    locations: LocationCache = field(default_factory=LocationCache)
    configuration_fault: str = ""
    reload_fault: str = ""
