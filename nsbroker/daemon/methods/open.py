"""The verbs Open and Explain."""

import os
from collections.abc import Coroutine, Sequence
from typing import Any

import trio

from nsbroker.daemon.context import Parts
from nsbroker.daemon.methods.authorization import Inquiry, inquire
from nsbroker.daemon.methods.call import Answer, Caller, Later, checked_types
from nsbroker.daemon.policy.permission import Device, Permission, is_device_name
from nsbroker.daemon.targets.pinned import Pinned
from nsbroker.errors import InvalidParameter, InvalidType, NoSuchTarget, PermissionDenied, TargetChanged
from nsbroker.linux import procfs
from nsbroker.model.identity import Expectation, NamespaceType
from nsbroker.model.socket_kind import SocketKind
from nsbroker.namespace import Namespace
from nsbroker.protocol.messages import (
    ExpectationSpec,
    ExplainReply,
    ExplainRequest,
    OpenedNamespace,
    OpenReply,
    OpenRequest,
    PermissionVerdict,
    TypeVerdict,
)
from nsbroker.varlink.connection import IncomingCall

_DEADLINE = 2.0
# Kinds of sockets, and devices, that one call asks about: each takes its time, in which nobody else is served.
_EXPLAINED_MAX = 64
Types = tuple[NamespaceType, ...] | None


class Opening:
    """Answers calls for namespaces."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def open(self, caller: Caller, call: IncomingCall, request: OpenRequest) -> Answer | Later:
        """Open, at once where that can be."""
        types = checked_types(request.types)
        inquiry = inquire(self._parts, "Open", caller, call, request.target, types)
        expect = request.expect
        if inquiry.takes_time() or (expect is not None and expect.start_time is not None):
            return self._open_slowly(inquiry, caller, types, expect)
        with inquiry:
            return self._open_pinned(inquiry, caller, types, expect, inquiry.pin_now())

    async def _open_slowly(self, inquiry: Inquiry, caller: Caller, types: Types, expect: ExpectationSpec | None) -> Answer:
        with inquiry:
            pinned = await inquiry.pin()
            try:
                # Nobody has anything looked at closely that they may not open.
                asked = expect is not None and expect.start_time is not None and inquiry.judge(pinned).allowed
                started = await self._start_time(caller, pinned) if asked else None
            except BaseException:
                pinned.close()
                raise
            return self._open_pinned(inquiry, caller, types, expect, pinned, started)

    async def _start_time(self, caller: Caller, pinned: Pinned) -> int | None:
        """When the process started; to read that can wait for the process.  Borrows `pinned`."""
        if not pinned.is_process:
            return None
        directory = pinned.directory()

        def read() -> int:
            try:
                return procfs.start_time(directory)
            finally:
                os.close(directory)

        try:
            return await self._parts.threads.run(
                caller.peer.user, pinned.target, _DEADLINE, read, lambda _: None, lambda: os.close(directory)
            )
        except trio.TooSlowError as error:
            raise TargetChanged(pinned.target, "it does not let itself be looked at") from error
        except OSError as error:
            raise NoSuchTarget(pinned.target, "the process has ended") from error

    def _open_pinned(
        self,
        inquiry: Inquiry,
        caller: Caller,
        types: Types,
        expect: ExpectationSpec | None,
        pinned: Pinned,
        started: int | None = None,
    ) -> Answer:
        """Takes `pinned`; `started`: when it did, where that is expected."""
        opened: list[Namespace] = []
        try:
            if not inquiry.judge(pinned).allowed:
                raise PermissionDenied
            wanted = pinned.types() if types is None else types
            self._parts.users.check(caller.charge, len(wanted))
            opened = inquiry.open(pinned, wanted)
            if expect is not None:
                _see_expected(expect.to_expectation(), pinned.target, started, opened)
            pinned.see_unchanged()
            inquiry.succeed(opened)
        except BaseException:
            for space in opened:
                space.close()
            raise
        finally:
            pinned.close()
        found = [OpenedNamespace(space.type, space.device, space.inode, index) for index, space in enumerate(opened)]
        return Answer(OpenReply(found), [space.detach() for space in opened])

    def explain(self, caller: Caller, call: IncomingCall, request: ExplainRequest) -> Answer | Later:
        """Explain, at once where that can be."""
        wanted = _wanted(request)
        refusal = _explained(str(request.target.to_target()), tuple(NamespaceType) if wanted is None else wanted, [])
        refusal = refusal._replace(is_refusal=True)
        try:
            inquiry = inquire(self._parts, "Explain", caller, call, request.target, wanted, some=True)
            if inquiry.takes_time():
                return _unless_denied(_explain_slowly(inquiry), refusal)
            with inquiry:
                return _explain_pinned(inquiry, inquiry.pin_now())
        except PermissionDenied:
            return refusal


async def _explain_slowly(inquiry: Inquiry) -> Answer:
    with inquiry:
        return _explain_pinned(inquiry, await inquiry.pin())


def _explain_pinned(inquiry: Inquiry, pinned: Pinned) -> Answer:
    """Takes `pinned`."""
    said = inquiry.said
    try:
        verdict = inquiry.explain(pinned)
        inquiry.succeed()
    finally:
        pinned.close()
    # What it is called here is told only to those who may open it.
    return _explained(pinned.target if verdict.allowed else said, inquiry.wanted or (), verdict.rules)


async def _unless_denied(later: Coroutine[Any, Any, Answer], refusal: Answer) -> Answer:
    try:
        return await later
    except PermissionDenied:
        return refusal


def _wanted(request: ExplainRequest) -> tuple[Permission, ...] | None:
    if request.sockets is None and request.devices is None:
        return checked_types(request.types)
    for name, texts in (("sockets", request.sockets), ("devices", request.devices)):
        if texts is not None and len(texts) > _EXPLAINED_MAX:
            raise InvalidParameter(name)
    try:
        sockets = [SocketKind.parse(text) for text in request.sockets or ()]
    except InvalidType as error:
        raise InvalidParameter("sockets") from error
    devices = request.devices or []
    if not all(map(is_device_name, devices)):
        raise InvalidParameter("devices")
    wanted: tuple[Permission, ...] = (*(checked_types(request.types) or ()), *sockets, *map(Device, devices))
    if not wanted or len(set(wanted)) != len(wanted):
        raise InvalidParameter("sockets" if sockets else "devices")
    return wanted


def _explained(target: str, wanted: Sequence[Permission], rules: Sequence[str | None]) -> Answer:
    said = list(zip(wanted, rules or [None] * len(wanted), strict=True))
    types = [TypeVerdict(one, rule is not None, rule) for one, rule in said if isinstance(one, NamespaceType)]
    sockets = [PermissionVerdict(str(one), rule is not None, rule) for one, rule in said if isinstance(one, SocketKind)]
    devices = [PermissionVerdict(one.name, rule is not None, rule) for one, rule in said if isinstance(one, Device)]
    return Answer(ExplainReply(target, bool(rules) and None not in rules, types, sockets or None, devices or None))


def _see_expected(expect: Expectation, target: str, started: int | None, opened: Sequence[Namespace]) -> None:
    """Raises TargetChanged when the target is not what it was, InvalidParameter when it cannot be told what is meant."""
    about = [space for space in opened if expect.type in (None, space.type)]
    if not about or (len(about) > 1 and (expect.inode, expect.device) != (None, None)):
        raise InvalidParameter("expect")
    expect.see_process(started, target)
    for space in about:
        expect.see_namespace(space.id, target)
