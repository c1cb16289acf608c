"""Making calls with the trio and asyncio clients, one or many at a time.

`blocking_calls` is generated from this file: run `make generate` after a change.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Any, NamedTuple, Self, TypeVar

from nsbroker.client import requests
from nsbroker.client.pending import PendingCall
from nsbroker.client.transport import CallNotRead, Transport
from nsbroker.errors import ConnectionFailed, ConnectionLost, NsbrokerError, ProtocolError, QuotaExceeded, Timeout
from nsbroker.model.identity import NamespaceType
from nsbroker.namespace import Namespace

T = TypeVar("T")
Opened = dict[NamespaceType, Namespace]

_FDS_AHEAD = 128
"""How many fds may be asked for before the caller takes those of earlier targets: half of what the broker sends unread."""
_UNREAD = "unread-descriptors-per-user"


class AsyncCalls(ABC):
    """Making calls, of which several can be under way at once.  Subclasses do the I/O."""

    _transport: Transport

    async def _call(self, request: requests.Request[T], timeout: float | None = None) -> T:
        """Make one call, and return its result.  `timeout` is that of a `PendingCall`."""
        try:
            return await self._make(PendingCall(request, timeout=timeout))
        except CallNotRead:
            # The connection had ended before.  This makes the call on another one.
            return await self._make(PendingCall(request, timeout=timeout))

    async def _make(self, call: PendingCall[T]) -> T:
        try:
            await self._begin(call)
            await self._settle(call)
            return self._result(call)
        finally:
            call.abandon()

    def _result(self, call: PendingCall[T]) -> T:
        """Return the result of a settled call.  Raises the error of the broker, or of the connection."""
        if call.error is not None:
            raise call.error
        try:
            return requests.finish(call.request, call.replies)
        except ProtocolError as error:
            if call.replies[-1].error is not None:
                raise
            # Perhaps this is the reply to another call, and so are those that follow.
            self._transport.distrust(str(error))
            raise ProtocolError(f"{call.request.what()}: {error}") from error

    @abstractmethod
    async def _begin(self, call: PendingCall[Any]) -> None:
        """Queue a call, after connecting again if the connection has ended.  `call.abandon` must follow, on errors, too.

        Raises Timeout, ConnectionFailed, ConnectionLost, and InvalidTarget or ProtocolError if the call cannot be sent.
        """

    @abstractmethod
    async def _settle(self, call: PendingCall[Any]) -> None:
        """Wait until a call that was begun is settled.  Whoever cancels this may wait for the call again, or abandon it."""


class _Ahead(NamedTuple):
    """A target, and the call that opens its namespaces, or the error if there can be no call."""

    target: requests.TargetLike
    call: PendingCall[Opened] | NsbrokerError


class AsyncOpenedTargets:
    """An asynchronous iterator of targets and what was opened of each.  Use `Broker.open_many`.

    It is also an asynchronous context manager, which closes the handles that were opened but not taken.
    """

    def __init__(self, broker: AsyncCalls, targets: Iterable[requests.TargetLike], types: Iterable[str] | None) -> None:
        """Use `Broker.open_many`.  Borrows `broker`.  Raises InvalidTarget, InvalidType."""
        # It comes first, because `close` uses it even if one of the arguments is wrong.
        self._ahead: deque[_Ahead] = deque()
        self._broker = broker
        self._types = requests.parse_types(types)
        self._targets = iter(requests.check_targets(targets))
        self._most = max(1, _FDS_AHEAD // max(1, len(NamespaceType if self._types is None else self._types)))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[requests.TargetLike, Opened | NsbrokerError]:
        """Return the next target, with its handles (the caller's to close) or the error.

        Raises ConnectionFailed, ConnectionLost and Timeout if the broker cannot be reached any longer; this closes the iterator.
        """
        try:
            if len(self._ahead) <= self._most // 2:
                await self._ask_ahead()
        except BaseException:
            self.close()
            raise
        if not self._ahead:
            raise StopAsyncIteration
        target, call = self._ahead[0]
        try:
            outcome = call if isinstance(call, NsbrokerError) else await self._open(call)
        except (ConnectionFailed, ConnectionLost):
            self.close()
            raise
        self._ahead.popleft()
        return target, outcome

    async def _ask_ahead(self) -> None:
        """Begin the calls for further targets.  Many are begun at once, so that they reach the broker together."""
        for target in islice(self._targets, self._most - len(self._ahead)):
            try:
                call = PendingCall(requests.open_namespaces(target, self._types))
            except NsbrokerError as error:
                self._ahead.append(_Ahead(target, error))
                continue
            self._ahead.append(_Ahead(target, call))
            try:
                await self._broker._begin(call)
            except (ConnectionFailed, ConnectionLost):
                raise
            except NsbrokerError as error:
                call.abandon()
                self._ahead[-1] = _Ahead(target, error)

    async def _open(self, call: PendingCall[Opened]) -> Opened | NsbrokerError:
        """Return the handles (the caller's to close) or the error of a call.  A call that is cut off is made once more."""
        await self._broker._settle(call)
        try:
            return self._broker._result(call)
        except Timeout:
            raise
        except QuotaExceeded as error:
            if error.limit != _UNREAD:
                return error
            # The quota counts what this client itself has not read yet.
            for _, other in self._ahead:
                if isinstance(other, PendingCall):
                    await self._broker._settle(other)
        except ConnectionLost:
            # The broker may have been restarted, or nothing was read for too long.  Opening twice does no harm.
            pass
        except NsbrokerError as error:
            return error
        finally:
            call.abandon()
        try:
            return await self._broker._call(call.request)
        except (ConnectionFailed, ConnectionLost):
            raise
        except NsbrokerError as error:
            return error

    def close(self) -> None:
        """Close the handles that were not taken; there are no further targets then.  Closing twice does nothing."""
        self._targets = iter(())
        while self._ahead:
            call = self._ahead[0].call
            if isinstance(call, PendingCall):
                call.abandon()
            self._ahead.popleft()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_ahead"):
            self.close()
