"""The method Open: namespaces of a target, as file descriptors."""

import os
from collections.abc import Sequence

import trio

from nsbroker.daemon.context import Context
from nsbroker.daemon.limits.namespace_closing import slow_fds
from nsbroker.daemon.methods.authorization import Authorization, begin
from nsbroker.daemon.methods.call import Caller, PendingReply, Reply, validate_types
from nsbroker.daemon.methods.plain_open import PlainOpen
from nsbroker.daemon.targets.pinned import Pinned
from nsbroker.errors import InvalidParameter, NoSuchTarget, TargetChanged
from nsbroker.linux import procfs
from nsbroker.model.identity import Expectation
from nsbroker.namespace import Namespace
from nsbroker.protocol.messages import OpenedNamespace, OpenReply, OpenRequest
from nsbroker.protocol.target_spec import ExpectationSpec
from nsbroker.varlink.connection import IncomingCall

# Seconds for reading the start time of a process.
_DEADLINE = 2.0


class OpenMethod:
    """Answers calls to Open."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._plain = PlainOpen(context)

    def open(self, caller: Caller, call: IncomingCall, request: OpenRequest) -> Reply | PendingReply:
        """Open namespaces: at once, or as a pending reply when the target takes time to find or its start time is asked for."""
        if (reply := self._plain.open(caller, call, request)) is not None:
            return reply
        types, expect = validate_types(request.types), request.expect
        authorization = begin(self._context, "Open", caller, call, request.target, types, hands_over=True)
        if authorization.takes_time() or (expect is not None and expect.start_time is not None):
            return self._open_slowly(authorization, caller, expect)
        with authorization as pinned:
            opened = authorization.open()
            if expect is not None:
                _check_expected(expect.to_expectation(), pinned.target, None, opened)
        return _reply(opened)

    async def _open_slowly(self, authorization: Authorization, caller: Caller, expect: ExpectationSpec | None) -> Reply:
        async with authorization as pinned:
            # The start time is read only here, after the verdict: nobody may have the broker examine a process without permission.
            needs_start_time = expect is not None and expect.start_time is not None
            started = await self._read_start_time(caller, pinned) if needs_start_time else None
            opened = authorization.open()
            if expect is not None:
                _check_expected(expect.to_expectation(), pinned.target, started, opened)
        return _reply(opened)

    async def _read_start_time(self, caller: Caller, pinned: Pinned) -> int | None:
        """Return when the process of `pinned` (borrowed) started, in clock ticks since boot; None when it is no process.

        Reading it can block, so it runs on a thread that can be abandoned.
        """
        if not pinned.is_process:
            return None
        directory = pinned.directory()

        def read() -> int:
            try:
                return procfs.start_time(directory)
            finally:
                os.close(directory)

        try:
            return await self._context.threads.run(
                caller.peer.user, pinned.target, _DEADLINE, read, lambda _: None, lambda: os.close(directory)
            )
        except trio.TooSlowError as error:
            raise TargetChanged(
                pinned.target, "its start time cannot be read: the process blocks reading its /proc entry"
            ) from error
        except OSError as error:
            raise NoSuchTarget(pinned.target, "the process has ended") from error


def _reply(opened: Sequence[Namespace]) -> Reply:
    """Return the reply that hands over these handles (taken)."""
    found = [OpenedNamespace(ns.type, ns.device, ns.inode, index) for index, ns in enumerate(opened)]
    fds = [ns.detach() for ns in opened]
    return Reply(OpenReply(found), fds, slow_fds=slow_fds(fds, (ns.type for ns in opened)))


def _check_expected(expect: Expectation, target: str, started: int | None, opened: Sequence[Namespace]) -> None:
    """Check the opened namespaces (borrowed) and the start time against what the caller expects.

    Raises TargetChanged when they differ.  Raises InvalidParameter when `expect` is about a type that was not opened, or gives a
    device or inode but fits several types.
    """
    about = [ns for ns in opened if expect.type in (None, ns.type)]
    if not about or (len(about) > 1 and (expect.inode, expect.device) != (None, None)):
        raise InvalidParameter("expect")
    expect.check_process(started, target)
    for ns in about:
        expect.check_namespace(ns.id, target)
