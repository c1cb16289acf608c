"""The method Restrict: a connection gives up rights, for good."""

from collections.abc import Sequence
from types import TracebackType

from nsbroker.daemon.context import Context
from nsbroker.daemon.methods.call import Caller, PendingReply, Reply
from nsbroker.daemon.peer import Peer
from nsbroker.daemon.policy.permission import Allowance
from nsbroker.daemon.policy.restriction import UNRESTRICTED, Restriction
from nsbroker.daemon.policy.scope import Scope
from nsbroker.errors import ConfigurationError, InvalidParameter, InvalidTarget, InvalidType, NoSuchTarget
from nsbroker.model.target import Target, TargetKind
from nsbroker.protocol.messages import RestrictRequest
from nsbroker.varlink import service
from nsbroker.varlink.connection import IncomingCall

# Compiling the patterns takes time in which nobody else is served, at most a few milliseconds within these limits.
_TEXT_MAX = 1024
_WILDCARDS_MAX = 32
_LISTED_MAX = 32


class RestrictMethod:
    """Answers calls to Restrict."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def restrict(self, caller: Caller, call: IncomingCall, request: RestrictRequest) -> PendingReply:
        """Restrict the caller's connection to what the request allows, within what is left of its rights."""
        call.take_fds()
        scope = _parse(request, caller.peer)
        return self._restrict(caller, (caller.restriction or UNRESTRICTED).narrow(scope, " ".join(request.targets) or "nothing"))

    async def _restrict(self, caller: Caller, restriction: Restriction) -> Reply:
        targets, permissions = restriction.targets_text(), restriction.permissions_text()
        self._context.audit.record(caller.peer, "Restrict", targets, "allowed", wanted=permissions)
        # What cannot be recorded does not happen.  The next call of this connection is answered only after this one.
        await self._context.audit.settle(caller.peer)
        caller.restriction = restriction
        return Reply(service.Nothing())


def _parse(request: RestrictRequest, peer: Peer) -> Scope:
    """Return the scope that the request describes.  Raises InvalidParameter."""
    sockets, marks, devices, interfaces = (
        words or () for words in (request.sockets, request.marks, request.devices, request.interfaces)
    )
    with _Blaming("targets"):
        _check_targets(request.targets)
        targets = [text for pattern in request.targets for text in _in_our_numbers(pattern, peer)]
    with _Blaming("sockets"):
        _check_length(sockets)
        Allowance.parse(sockets=sockets)
    with _Blaming("marks"):
        _check_length(marks)
        Allowance.parse(marks=marks)
    with _Blaming("devices"):
        _check_length(devices)
        Allowance.parse(devices=devices)
    with _Blaming("files"):
        allowance = Allowance.parse(
            namespaces=request.namespaces or (),
            sockets=sockets,
            devices=devices,
            create=request.create or (),
            hold=request.hold or (),
            marks=marks,
            interfaces=interfaces,
            files=request.files or (),
        )
    with _Blaming("targets"):
        return Scope.parse(targets, allowance)


class _Blaming:
    """Makes errors of the body errors of one parameter.

    It is no generator: with Python 3.12 and later, an error that passes through one refers to itself, and stays in memory until a
    full garbage collection.
    """

    def __init__(self, parameter: str) -> None:
        self._parameter = parameter

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if isinstance(error, ConfigurationError | InvalidTarget | InvalidType):
            raise InvalidParameter(self._parameter) from error


def _check_targets(targets: Sequence[str]) -> None:
    text = "".join(targets)
    # The record has the patterns, too.
    if len(text) > _TEXT_MAX or text.count("*") + text.count("?") > _WILDCARDS_MAX or not text.isprintable():
        raise InvalidParameter("targets")


def _check_length(words: Sequence[str]) -> None:
    if len(words) > _LISTED_MAX:
        raise ConfigurationError(f"more than {_LISTED_MAX}")


def _in_our_numbers(pattern: str, peer: Peer) -> list[str]:
    """Return `pattern` as rules would have it.

    Callers name processes by the numbers of their own PID namespace, and rules by those of the broker's.  Return nothing for a
    process that the caller could not name in a call either.
    """
    if not pattern.startswith(("pid:", "tid:")) or "*" in pattern or "?" in pattern:
        return [pattern]
    target = Target.parse(pattern)
    try:
        pid = peer.translate(target.pid, pattern)
    except NoSuchTarget:
        return []
    if target.kind is TargetKind.PID:
        return [f"pid:{pid}"]
    return [pattern] if pid == target.pid else []
