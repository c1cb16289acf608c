"""The plain case of Open: namespaces of a process that is named by its number, all of them allowed by rules for that number.

Programs that monitor make this call thousands of times.  It takes the steps of `Authorization` at half the cost, with bare fds
instead of handles.  Any other call, and any error, is left to `Authorization`, which starts from the beginning.  So nothing is
refused or recorded as a failure here.
"""

import os
from typing import NamedTuple

from nsbroker.daemon.context import Context
from nsbroker.daemon.limits.namespace_closing import SLOW_TYPES, slow_fds
from nsbroker.daemon.methods.call import Caller, Reply
from nsbroker.daemon.policy.grants import Grants
from nsbroker.errors import NoSuchTarget
from nsbroker.linux import nsfs, pidfd
from nsbroker.linux.descriptors import close_and_clear
from nsbroker.linux.features import features
from nsbroker.model.identity import NamespaceType, format_id
from nsbroker.protocol.messages import OpenedNamespace, OpenReply, OpenRequest
from nsbroker.protocol.target_spec import TargetSpec
from nsbroker.varlink.connection import IncomingCall

_TYPES = len(NamespaceType)


class _Plan(NamedTuple):
    """What is known of a plain call before its process is pinned.  It holds as long as the grants do."""

    pid: int
    target: str
    types: tuple[NamespaceType, ...]
    rule: str
    is_slow: bool


class PlainOpen:
    """Answers plain calls to Open."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def open(self, caller: Caller, call: IncomingCall, request: OpenRequest) -> Reply | None:
        """Return the reply to a plain call.  Return None for any other call, and when something goes wrong."""
        spec, types = request.target, request.types
        # What is remembered must stay small, whatever the call.
        if spec.pid is None or types is None or len(types) > _TYPES or spec != TargetSpec(pid=spec.pid):
            return None
        if request.expect is not None or call.fds or caller.restriction is not None or not features().pidfd_namespaces:
            return None
        plan = caller.grants(self._context.policy).derive((spec.pid, tuple(types)), _make_plan)
        return None if plan is None else self._open(caller, plan)

    def _open(self, caller: Caller, plan: _Plan) -> Reply | None:
        context, peer = self._context, caller.peer
        opened: list[int] = []
        try:
            if not peer.has_our_numbers():
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
            if plan.is_slow:
                Reply(None, opened, slow_fds=slow_fds(opened, plan.types)).close(context.users.closer, peer.user)
            else:
                close_and_clear(opened)
            if isinstance(error, Exception):
                return None
            raise
        return Reply(OpenReply(found), opened, slow_fds=slow_fds(opened, plan.types) if plan.is_slow else ())


def _make_plan(grants: Grants, wanted: tuple[int, tuple[NamespaceType, ...]]) -> _Plan | None:
    """Return the plan for a process and the types that are wanted of it; None when the call is not plain."""
    pid, types = wanted
    if not types or len(set(types)) != len(types):
        return None
    target = f"pid:{pid}"
    verdict = grants.verdict((target,), types, own=False)
    return _Plan(pid, target, types, verdict.rule, not SLOW_TYPES.isdisjoint(types)) if verdict.allowed else None
