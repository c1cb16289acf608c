"""The method List: the namespaces that a peer may open."""

import contextlib
from collections.abc import Sequence

from nsbroker.daemon.context import Context
from nsbroker.daemon.discovery.scan_result import TYPES
from nsbroker.daemon.discovery.views import Views
from nsbroker.daemon.methods.authorization import Authorization, begin
from nsbroker.daemon.methods.call import Caller, Reply, ReplyStream, check_more, validate_types
from nsbroker.daemon.policy.grants import Grants
from nsbroker.errors import ExpectedMore
from nsbroker.model.identity import NamespaceType
from nsbroker.protocol.messages import ListReply, ListRequest
from nsbroker.varlink.connection import IncomingCall


class ListMethod:
    """Answers calls to List."""

    def __init__(self, context: Context, views: Views) -> None:
        self._context = context
        self._views = views

    def list(self, caller: Caller, call: IncomingCall, request: ListRequest) -> ReplyStream:
        """List the namespaces that the caller may open: those of the target if the call names one, else all."""
        types = validate_types(request.types)
        if request.target is None:
            check_more(call)
            self._context.audit.record(caller.peer, "List", "*", "allowed", wanted=" ".join(types or ()))
            return self._stream_list(caller, caller.grants(self._context.policy), types or TYPES, None)
        if not call.more:
            raise ExpectedMore
        authorization = begin(self._context, "List", caller, call, request.target, types, partly=True)
        return self._stream_target(caller, authorization)

    async def _stream_target(self, caller: Caller, authorization: Authorization) -> ReplyStream:
        async with authorization:
            authorization.narrow()
            ns_ids = authorization.ids()
        types = [NamespaceType(ns_id.partition(":")[0]) for ns_id in ns_ids]
        async with contextlib.aclosing(self._stream_list(caller, authorization.grants, types, ns_ids)) as replies:
            async for reply in replies:
                yield reply

    async def _stream_list(
        self, caller: Caller, grants: Grants, types: Sequence[NamespaceType], only: Sequence[str] | None
    ) -> ReplyStream:
        view = await self._views.view(caller.peer, grants, types)
        ns_ids = [ns_id for ns_id in view.ids() if only is None or ns_id in only]
        async with contextlib.aclosing(self._views.descriptions(view, ns_ids)) as descriptions:
            async for description in descriptions:
                yield Reply(ListReply(description), continues=True)
        yield Reply(ListReply())
