"""The method Explain: which rules allow what is asked about, without opening anything."""

from collections.abc import Coroutine, Sequence
from typing import Any

from nsbroker.daemon.context import Context
from nsbroker.daemon.methods.authorization import Authorization, begin
from nsbroker.daemon.methods.call import Caller, PendingReply, Reply, validate_types
from nsbroker.daemon.methods.identification import why_unidentified
from nsbroker.daemon.policy.permission import MARK_MAX, Device, File, Mark, Permission, is_device_name
from nsbroker.daemon.targets.pinned import Pinned
from nsbroker.errors import InvalidParameter, InvalidType, PermissionDenied
from nsbroker.model.identity import NamespaceType
from nsbroker.model.interface import InterfaceKind
from nsbroker.model.socket_kind import SocketKind
from nsbroker.model.target_file import NAMES
from nsbroker.protocol.messages import ExplainReply, ExplainRequest, PermissionVerdict, TypeVerdict
from nsbroker.varlink.connection import IncomingCall

# One call may ask about this many sockets, marks, devices, interfaces, and files.  Each takes time in which nobody else is served.
_EXPLAINED_MAX = 64


class ExplainMethod:
    """Answers calls to Explain."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def explain(self, caller: Caller, call: IncomingCall, request: ExplainRequest) -> Reply | PendingReply:
        """Explain the verdict: at once, or as a pending reply when the target takes time to find."""
        wanted = _parse_wanted(request)
        explained = tuple(NamespaceType) if wanted is None else wanted
        unknown = why_unidentified(caller.peer)
        refusal = _reply(str(request.target.to_target()), explained, [], unknown)
        refusal.is_refusal = True
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
    return _reply(pinned.target if verdict.allowed else requested, authorization.wanted or (), verdict.rules, unknown)


async def _replace_denial(pending: Coroutine[Any, Any, Reply], refusal: Reply) -> Reply:
    try:
        return await pending
    except PermissionDenied:
        return refusal


def _parse_wanted(request: ExplainRequest) -> tuple[Permission, ...] | None:
    """Return what the request asks about, or None for all types of namespace.  Raises InvalidParameter."""
    lists = {
        "sockets": request.sockets,
        "marks": request.marks,
        "devices": request.devices,
        "interfaces": request.interfaces,
        "files": request.files,
    }
    if all(asked is None for asked in lists.values()):
        return validate_types(request.types)
    for name, asked in lists.items():
        if asked is not None and len(asked) > _EXPLAINED_MAX:
            raise InvalidParameter(name)
    try:
        sockets = [SocketKind.parse(text) for text in request.sockets or ()]
    except InvalidType as error:
        raise InvalidParameter("sockets") from error
    marks = request.marks or []
    if not all(0 < mark <= MARK_MAX for mark in marks) or len(set(marks)) != len(marks):
        raise InvalidParameter("marks")
    devices = request.devices or []
    if not all(map(is_device_name, devices)):
        raise InvalidParameter("devices")
    interfaces = request.interfaces or []
    if len(set(interfaces)) != len(interfaces):
        raise InvalidParameter("interfaces")
    files = request.files or []
    if not set(files) <= set(NAMES) or len(set(files)) != len(files):
        raise InvalidParameter("files")
    wanted: tuple[Permission, ...] = (
        *(validate_types(request.types) or ()),
        *sockets,
        *map(Mark, marks),
        *map(Device, devices),
        *interfaces,
        *map(File, files),
    )
    if not wanted or len(set(wanted)) != len(wanted):
        raise InvalidParameter("sockets" if sockets else "files" if request.devices is None else "devices")
    return wanted


def _reply(target: str, wanted: Sequence[Permission], rules: Sequence[str | None], unknown: str | None) -> Reply:
    """Return the reply that gives, for each thing in `wanted`, the rule that allows it.  Without `rules`, nothing is allowed."""
    pairs = list(zip(wanted, rules or [None] * len(wanted), strict=True))
    types = [TypeVerdict(item, rule is not None, rule) for item, rule in pairs if isinstance(item, NamespaceType)]
    sockets = [PermissionVerdict(str(item), rule is not None, rule) for item, rule in pairs if isinstance(item, SocketKind)]
    marks = [PermissionVerdict(f"{item.value:#x}", rule is not None, rule) for item, rule in pairs if isinstance(item, Mark)]
    devices = [PermissionVerdict(item.name, rule is not None, rule) for item, rule in pairs if isinstance(item, Device)]
    kinds = [PermissionVerdict(str(item), rule is not None, rule) for item, rule in pairs if isinstance(item, InterfaceKind)]
    files = [PermissionVerdict(item.name, rule is not None, rule) for item, rule in pairs if isinstance(item, File)]
    others = (sockets or None, devices or None, marks or None, kinds or None, files or None)
    return Reply(ExplainReply(target, bool(rules) and None not in rules, types, *others, unknown))
