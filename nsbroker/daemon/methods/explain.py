"""The method Explain: which rules allow what is asked about, without opening anything."""

from collections.abc import Coroutine
from typing import Any

from nsbroker.daemon.context import Context
from nsbroker.daemon.methods.authorization import Authorization, begin
from nsbroker.daemon.methods.call import Caller, PendingReply, Reply
from nsbroker.daemon.methods.explain_messages import make_reply, parse_wanted
from nsbroker.daemon.methods.identification import why_unidentified
from nsbroker.daemon.targets.pinned import Pinned
from nsbroker.errors import PermissionDenied
from nsbroker.model.identity import NamespaceType
from nsbroker.protocol.messages import ExplainRequest
from nsbroker.varlink.connection import IncomingCall


class ExplainMethod:
    """Answers calls to Explain."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def explain(self, caller: Caller, call: IncomingCall, request: ExplainRequest) -> Reply | PendingReply:
        """Explain the verdict: at once, or as a pending reply when the target takes time to find."""
        wanted = parse_wanted(request)
        if request.as_ is not None:
            from nsbroker.daemon.methods.explain_as import ExplainAs  # only on this path: the daemon's memory counts

            return ExplainAs(self._context, caller, request, wanted).explain()
        explained = tuple(NamespaceType) if wanted is None else wanted
        unknown = why_unidentified(caller.peer)
        refusal = Reply(make_reply(str(request.target.to_target()), explained, [], unknown), is_refusal=True)
        try:
            authorization = begin(self._context, "Explain", caller, call, request.target, wanted, partly=True)
            if authorization.takes_time():
                return _replace_denial(_explain_slowly(authorization, unknown), refusal)
            requested = authorization.target_text
            with authorization as pinned:
                return _explain(authorization, pinned, requested, unknown)
        except PermissionDenied:
            return refusal


async def _explain_slowly(authorization: Authorization, unknown: str | None) -> Reply:
    requested = authorization.target_text
    async with authorization as pinned:
        return _explain(authorization, pinned, requested, unknown)


def _explain(authorization: Authorization, pinned: Pinned, requested: str, unknown: str | None) -> Reply:
    verdict = authorization.explain()
    # The target's resolved name is shown only to peers who may open it; others see the name that they asked for.
    return Reply(make_reply(pinned.target if verdict.allowed else requested, authorization.wanted or (), verdict.rules, unknown))


async def _replace_denial(pending: Coroutine[Any, Any, Reply], refusal: Reply) -> Reply:
    try:
        return await pending
    except PermissionDenied:
        return refusal
