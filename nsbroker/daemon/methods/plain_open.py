"""The plain case of Open: namespaces of a process that is named by its number, all of them allowed by rules for that number.

Programs that monitor make this call thousands of times.  It takes the steps of `authorization`, at half the price, with numbers in
the place of objects.  What is not plain, and whatever goes wrong, is left to the general way, which begins anew: so nothing is
refused here, and no failure is explained or recorded.
"""

import os
from typing import NamedTuple

from nsbroker.daemon.context import Context
from nsbroker.daemon.methods.call import Caller, Reply
from nsbroker.daemon.policy.grants import Grants
from nsbroker.errors import NoSuchTarget
from nsbroker.linux import nsfs, pidfd
from nsbroker.linux.ancillary import close_and_clear
from nsbroker.linux.features import features
from nsbroker.model.identity import NamespaceType, format_id
from nsbroker.protocol.messages import OpenedNamespace, OpenReply, OpenRequest
from nsbroker.protocol.target_spec import TargetSpec
from nsbroker.varlink.connection import IncomingCall

_PLANS_MAX = 512


class _Plan(NamedTuple):
    """What is known of a plain call before its process is pinned.  It holds as long as the grants do."""

    pid: int
    target: str
    types: tuple[NamespaceType, ...]
    rule: str


class PlainOpen:
    """Answers plain calls to Open."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._plans: dict[tuple[Grants, int, tuple[NamespaceType, ...]], _Plan | None] = {}
        self._policy = context.policy

    def open(self, caller: Caller, call: IncomingCall, request: OpenRequest) -> Reply | None:
        """Return the reply to a plain call.  Return None for any other call, and when something goes wrong."""
        spec = request.target
        if spec.pid is None or request.types is None or request.expect is not None or caller.restriction is not None or call.fds:
            return None
        if not features().pidfd_namespaces or spec != TargetSpec(pid=spec.pid):
            return None
        plan = self._plan(caller, spec.pid, tuple(request.types))
        return None if plan is None else self._open(caller, plan)

    def _plan(self, caller: Caller, pid: int, types: tuple[NamespaceType, ...]) -> _Plan | None:
        """Return the plan for this call, or None when it is not plain."""
        policy = self._context.policy
        if policy is not self._policy:
            self._policy = policy
            self._plans.clear()
        grants = caller.grants(policy)
        key = (grants, pid, types)
        try:
            return self._plans[key]
        except KeyError:
            if len(self._plans) >= _PLANS_MAX:
                self._plans.clear()
            self._plans[key] = plan = _make_plan(grants, pid, types)
            return plan

    def _open(self, caller: Caller, plan: _Plan) -> Reply | None:
        context, peer = self._context, caller.peer
        opened: list[int] = []
        try:
            if peer.translate(plan.pid, plan.target) != plan.pid:
                return None
            process = os.pidfd_open(plan.pid)
            try:
                context.users.check(caller.charge, len(plan.types))
                found = []
                for index, ns_type in enumerate(plan.types):
                    fd = pidfd.open_namespace(process, ns_type)
                    opened.append(fd)
                    facts = os.fstat(fd)
                    found.append(OpenedNamespace(ns_type, facts.st_dev, facts.st_ino, index))
                if pidfd.has_ended(process) or found[0].device != nsfs.device():
                    raise NoSuchTarget(plan.target, "the process has ended")
            finally:
                os.close(process)
            ids = [format_id(one.type, one.inode) for one in found]
            context.audit.record(peer, "Open", plan.target, "allowed", rule=plan.rule, namespaces=ids)
        except BaseException as error:
            close_and_clear(opened)
            if isinstance(error, Exception):
                return None
            raise
        return Reply(OpenReply(found), opened)


def _make_plan(grants: Grants, pid: int, types: tuple[NamespaceType, ...]) -> _Plan | None:
    if not types or len(set(types)) != len(types):
        return None
    target = f"pid:{pid}"
    verdict = grants.verdict((target,), types, own=False)
    return _Plan(pid, target, types, verdict.rule) if verdict.allowed else None
