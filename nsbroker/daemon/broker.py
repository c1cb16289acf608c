"""The verbs: what each method of the interface does, for one caller, without any connection in sight."""

import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from nsbroker import interface
from nsbroker.daemon.audit import Audit
from nsbroker.daemon.call import Answer, Caller, Later, Stream, checked_types
from nsbroker.daemon.containers import list_containers
from nsbroker.daemon.engines.roster import Roster
from nsbroker.daemon.held import Holder
from nsbroker.daemon.holding import Holding
from nsbroker.daemon.inquiry import Inquiry
from nsbroker.daemon.limits import Ledger
from nsbroker.daemon.peer import Peer
from nsbroker.daemon.policy import Policy
from nsbroker.daemon.resolve import Pinned, resolve, resolve_slowly, takes_time
from nsbroker.errors import (
    BrokerError,
    ExpectedMore,
    InterfaceNotFound,
    InvalidParameter,
    MethodNotFound,
    MethodNotImplemented,
    PermissionDenied,
)
from nsbroker.identity import Expectation, NamespaceType
from nsbroker.interface import (
    CreateRequest,
    ExpectationSpec,
    ExplainReply,
    ExplainRequest,
    HoldRequest,
    ListContainersReply,
    OpenedNamespace,
    OpenReply,
    OpenRequest,
    PeerDescription,
    ReleaseRequest,
    Status,
    TypeVerdict,
    WhoAmIReply,
)
from nsbroker.linux.features import features
from nsbroker.namespace import Namespace
from nsbroker.varlink import service
from nsbroker.varlink.connection import IncomingCall
from nsbroker.version import VERSION

_LAST = ListContainersReply()


_Handler = Callable[[Caller, IncomingCall, Any], Answer | Later | Stream]


class _Method(NamedTuple):
    decoder: msgspec.json.Decoder[Any]
    handler: _Handler


class Broker:
    """Answers calls.  `policy` and `roster` may be replaced at any time."""

    def __init__(self, policy: Policy, roster: Roster, holder: Holder, ledger: Ledger, audit: Audit) -> None:
        self.policy = policy
        self.roster = roster
        self._holder = holder
        self._holding = Holding(holder, ledger, audit)
        self._ledger = ledger
        self._audit = audit
        self._calls = 0
        self._descriptors = 0
        self._service = service.Service("nsbroker", "nsbroker", VERSION, "", {interface.NAME: interface.TEXT})
        self._methods = {
            interface.OPEN: _method(OpenRequest, self._open),
            interface.WHO_AM_I: _method(service.Nothing, self._who_am_i),
            interface.EXPLAIN: _method(ExplainRequest, self._explain),
            interface.LIST_CONTAINERS: _method(service.Nothing, self._list_containers),
            interface.CREATE: _method(CreateRequest, self._create),
            interface.HOLD: _method(HoldRequest, self._hold),
            interface.RELEASE: _method(ReleaseRequest, self._release),
            interface.LIST_HELD: _method(service.Nothing, self._list_held),
            interface.GET_STATUS: _method(service.Nothing, self._get_status),
            f"{service.NAME}.GetInfo": _method(service.Nothing, self._get_info),
            f"{service.NAME}.GetInterfaceDescription": _method(service.DescriptionRequest, self._get_description),
        }
        self._interfaces = {name.rpartition(".")[0] for name in self._methods}

    def answer(self, caller: Caller, call: IncomingCall) -> Answer | Later | Stream:
        """Answer a call: at once, later, or bit by bit.  Never raises for anything that a peer can cause; closes the fds of
        the call that nobody took.
        """
        self._calls += 1
        try:
            method = self._methods.get(call.method)
            if method is None or call.upgrade:
                raise self._no_method(call)
            result = method.handler(caller, call, _decode(method, call))
        except Exception as error:
            return self._refuse(error)
        finally:
            call.close()
        if isinstance(result, Answer):
            return result
        return self._stream(result) if isinstance(result, AsyncGenerator) else self._await(result)

    async def _await(self, later: Later) -> Answer:
        try:
            return await later
        except Exception as error:
            return self._refuse(error)

    async def _stream(self, stream: Stream) -> Stream:
        try:
            async with contextlib.aclosing(stream):
                async for answer in stream:
                    yield answer
        except Exception as error:
            yield self._refuse(error)

    def _no_method(self, call: IncomingCall) -> BrokerError:
        if call.method in self._methods:
            return MethodNotImplemented(call.method)
        name = call.method.rpartition(".")[0]
        return MethodNotFound(call.method) if name in self._interfaces or not name else InterfaceNotFound(name)

    def _refuse(self, error: Exception) -> Answer:
        if not isinstance(error, BrokerError):
            self._audit.say(f"fault: {type(error).__name__}: {error}")
            error = PermissionDenied()
        return Answer(error.parameters(), error=error.wire_name)

    def _open(self, caller: Caller, call: IncomingCall, request: OpenRequest) -> Answer | Later:
        inquiry, fds = self._inquire("Open", caller, call, request)
        return self._resolve(inquiry, caller, fds, lambda pinned: self._open_pinned(inquiry, caller, request.expect, pinned))

    def _resolve(self, inquiry: Inquiry, caller: Caller, fds: list[int], use: Callable[[Pinned], Answer]) -> Answer | Later:
        """What `use`, which takes what the target means, makes of it: at once where that can be.  Takes `fds`."""
        if takes_time(inquiry.target):
            return self._resolve_slowly(inquiry, caller, use)
        with inquiry:
            return use(resolve(inquiry.target, inquiry.said, caller.peer, fds, self._holder))

    async def _resolve_slowly(self, inquiry: Inquiry, caller: Caller, use: Callable[[Pinned], Answer]) -> Answer:
        with inquiry:
            return use(await resolve_slowly(inquiry.target, self.roster, inquiry.asker()))

    def _open_pinned(self, inquiry: Inquiry, caller: Caller, expect: ExpectationSpec | None, pinned: Pinned) -> Answer:
        """Takes `pinned`."""
        opened: list[Namespace] = []
        try:
            if not inquiry.judge(pinned).allowed:
                raise PermissionDenied
            types = inquiry.types or ()
            self._ledger.check(caller.lease, len(types))
            for kind in types:
                opened.append(pinned.open(kind))  # noqa: PERF401 - what was opened before a failure must be known
            if expect is not None:
                _see_expected(expect.to_expectation(), pinned, opened)
            pinned.see_unchanged()
            inquiry.succeed(opened)
        except BaseException:
            for space in opened:
                space.close()
            raise
        finally:
            pinned.close()
        self._descriptors += len(opened)
        found = [OpenedNamespace(space.type, space.device, space.inode, index) for index, space in enumerate(opened)]
        return Answer(OpenReply(found), [space.detach() for space in opened])

    def _inquire(self, verb: str, caller: Caller, call: IncomingCall, request: ExplainRequest) -> tuple[Inquiry, list[int]]:
        """The question that a call puts, seen to be one that may be put, and the fds that came with its target (the caller's)."""
        target = request.target.to_target()
        types = checked_types(request.types)
        inquiry = Inquiry(verb, target, types, caller.peer, self.policy, self._audit)
        with inquiry:
            inquiry.see_askable()
        index = request.target.pid_file_descriptor
        return inquiry, call.take_fds(None if index is None else {"target.pidFileDescriptor": index})

    def _explain(self, caller: Caller, call: IncomingCall, request: ExplainRequest) -> Answer | Later:
        refusal = _explained(str(request.target.to_target()), request.types or list(NamespaceType), [])
        try:
            inquiry, fds = self._inquire("Explain", caller, call, request)
            answer = self._resolve(inquiry, caller, fds, lambda pinned: self._explain_pinned(inquiry, pinned))
        except PermissionDenied:
            return refusal
        return answer if isinstance(answer, Answer) else _unless_denied(answer, refusal)

    def _explain_pinned(self, inquiry: Inquiry, pinned: Pinned) -> Answer:
        """Takes `pinned`."""
        said = inquiry.said
        try:
            verdict = inquiry.judge(pinned)
            inquiry.succeed()
        finally:
            pinned.close()
        # The number that a process has here is told only to those who may open it.
        return _explained(inquiry.said if verdict.allowed else said, inquiry.types or (), verdict.rules)

    def _list_containers(self, caller: Caller, call: IncomingCall, request: service.Nothing) -> Stream:
        call.take_fds()
        if not call.more:
            raise ExpectedMore
        return self._listed_containers(caller.peer)

    async def _listed_containers(self, peer: Peer) -> Stream:
        self._audit.record(peer, "ListContainers", "container:*", "allowed")
        async with contextlib.aclosing(list_containers(self.roster, self.policy.grants(peer), peer)) as replies:
            async for reply in replies:
                yield Answer(reply, continues=reply != _LAST)

    def _create(self, caller: Caller, call: IncomingCall, request: CreateRequest) -> Later:
        call.take_fds()
        return self._holding.create(caller, self.policy.grants(caller.peer), request)

    def _hold(self, caller: Caller, call: IncomingCall, request: HoldRequest) -> Later:
        inquiry, fds = self._inquire("Hold", caller, call, request)
        return self._held(caller, inquiry, fds, request.name)

    async def _held(self, caller: Caller, inquiry: Inquiry, fds: list[int], name: str) -> Answer:
        with inquiry:
            if takes_time(inquiry.target):
                pinned = await resolve_slowly(inquiry.target, self.roster, inquiry.asker())
            else:
                pinned = resolve(inquiry.target, inquiry.said, caller.peer, fds, self._holder)
            return await self._holding.hold(caller, inquiry, self.policy.grants(caller.peer), pinned, name)

    def _release(self, caller: Caller, call: IncomingCall, request: ReleaseRequest) -> Answer:
        call.take_fds()
        return self._holding.release(caller, self.policy.grants(caller.peer), request)

    def _list_held(self, caller: Caller, call: IncomingCall, request: service.Nothing) -> Stream:
        call.take_fds()
        if not call.more:
            raise ExpectedMore
        return self._holding.listed(caller.peer, self.policy.grants(caller.peer))

    def _who_am_i(self, caller: Caller, call: IncomingCall, request: service.Nothing) -> Answer:
        call.take_fds()
        peer = caller.peer
        return Answer(WhoAmIReply(PeerDescription(peer.uid, peer.gid, sorted(peer.groups), peer.pid, peer.anonymous, peer.unit())))

    def _get_status(self, caller: Caller, call: IncomingCall, request: service.Nothing) -> Answer:
        call.take_fds()
        known = features()
        return Answer(
            Status(
                version=VERSION,
                features={name: getattr(known, name) for name in known.__slots__},
                rules=len(self.policy.rules),
                loaded=self.policy.loaded,
                connections=self._ledger.connections,
                calls=self._calls,
                file_descriptors=self._descriptors,
                held=len(self._holder),
                held_durable=self._holder.durable,
            )
        )

    def _get_info(self, caller: Caller, call: IncomingCall, request: service.Nothing) -> Answer:
        call.take_fds()
        return Answer(self._service.info())

    def _get_description(self, caller: Caller, call: IncomingCall, request: service.DescriptionRequest) -> Answer:
        call.take_fds()
        return Answer(self._service.description(request.interface))


async def _unless_denied(later: Later, refusal: Answer) -> Answer:
    try:
        return await later
    except PermissionDenied:
        return refusal


def _method(request: type[Struct], handler: _Handler) -> _Method:
    return _Method(msgspec.json.Decoder(request), handler)


def _decode(method: _Method, call: IncomingCall) -> Any:
    try:
        return method.decoder.decode(call.parameters)
    except msgspec.ValidationError as error:
        raise InvalidParameter(_place(str(error))) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidParameter("parameters") from error


def _place(message: str) -> str:
    """The parameter that msgspec complains of."""
    text, _, place = message.partition(" - at `$")
    where = place.rstrip("`").lstrip(".")
    if "field `" in text:
        where = f"{where}.{text.split('`')[1]}".lstrip(".")
    return where or "parameters"


def _see_expected(expect: Expectation, pinned: Pinned, opened: Sequence[Namespace]) -> None:
    """Raises TargetChanged when the target is not what it was, InvalidParameter when it cannot be told what is meant."""
    about = [space for space in opened if expect.type in (None, space.type)]
    if not about or (len(about) > 1 and (expect.inode, expect.device) != (None, None)):
        raise InvalidParameter("expect")
    expect.see_process(pinned.start_time(), pinned.target)
    for space in about:
        expect.see_namespace(space.id, pinned.target)


def _explained(target: str, types: Sequence[NamespaceType], rules: Sequence[str | None]) -> Answer:
    said = rules or [None] * len(types)
    verdicts = [TypeVerdict(kind, rule is not None, rule) for kind, rule in zip(types, said, strict=True)]
    return Answer(ExplainReply(target, bool(rules) and None not in rules, verdicts))
