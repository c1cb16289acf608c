"""The dispatcher: it finds the method for a call, and returns the reply.  It knows nothing of connections.

A reply is returned only after its audit record has been written.
"""

import contextlib
import math
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec
import trio
from msgspec import Struct

from nsbroker.daemon.context import Context
from nsbroker.daemon.discovery.scanner import Scanner
from nsbroker.daemon.discovery.views import Views
from nsbroker.daemon.histogram import Histogram
from nsbroker.daemon.methods.add_interface import AddInterfaceMethod
from nsbroker.daemon.methods.call import Caller, PendingReply, Reply, ReplyStream
from nsbroker.daemon.methods.devices import DeviceMethods
from nsbroker.daemon.methods.explain import ExplainMethod
from nsbroker.daemon.methods.held import HeldMethods
from nsbroker.daemon.methods.identification import Identification
from nsbroker.daemon.methods.list_containers import ListContainersMethod
from nsbroker.daemon.methods.list_namespaces import ListMethod
from nsbroker.daemon.methods.open import OpenMethod
from nsbroker.daemon.methods.open_file import OpenFileMethod
from nsbroker.daemon.methods.open_socket import OpenSocketMethod
from nsbroker.daemon.methods.restrict import RestrictMethod
from nsbroker.daemon.methods.service_info import Counts, ServiceMethods
from nsbroker.daemon.methods.watch import WatchMethod
from nsbroker.daemon.peer import Peer
from nsbroker.errors import (
    BrokerError,
    InterfaceNotFound,
    InvalidParameter,
    MethodNotFound,
    MethodNotImplemented,
    PermissionDenied,
    QuotaExceeded,
    RecordFailed,
)
from nsbroker.protocol import file_messages, messages
from nsbroker.protocol.file_messages import OpenFileRequest
from nsbroker.protocol.interface_messages import AddInterfaceRequest
from nsbroker.protocol.messages import (
    CreateRequest,
    ExplainRequest,
    HoldRequest,
    ListDevicesRequest,
    ListRequest,
    OpenDeviceRequest,
    OpenRequest,
    OpenSocketRequest,
    ReleaseRequest,
    RestrictRequest,
    WatchRequest,
)
from nsbroker.varlink import service
from nsbroker.varlink.connection import IncomingCall

# Refusals are sent on the next full tick (in seconds) after the call, to hide timing: a search for a target that does not exist
# takes a different time from a refusal of one that does, by up to some hundred microseconds.
_REFUSAL_TICK = 0.01

_Handler = Callable[[Caller, IncomingCall, Any], Reply | PendingReply | ReplyStream]


class _Method:
    """A method: what decodes its parameters, what answers its calls, and how many calls there were."""

    __slots__ = ("calls", "decoder", "handler")

    def __init__(self, decoder: msgspec.json.Decoder[Any], handler: _Handler) -> None:
        self.decoder = decoder
        self.handler = handler
        self.calls = 0


class Dispatcher:
    """Answers calls: decodes the parameters, runs the method, and turns errors into error replies."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._identification = Identification(context)
        self.must_identify = self._identification.is_due
        """Returns whether `identify` must be awaited before the peer's next call is dispatched."""
        self._unknown_calls = 0
        self._descriptors = 0
        # How long calls took that were not answered at once, without the time until the tick of a refusal.
        self._durations = Histogram()
        self._limits_reached: dict[str, int] = {}
        devices, held = DeviceMethods(context), HeldMethods(context)
        scanner = Scanner(context.locations)
        views = Views(context, scanner)
        service_methods = ServiceMethods(context, self._counts)
        self._all_methods = {
            messages.OPEN: _method(OpenRequest, OpenMethod(context).open),
            messages.OPEN_SOCKET: _method(OpenSocketRequest, OpenSocketMethod(context).open_socket),
            messages.LIST_DEVICES: _method(ListDevicesRequest, devices.list),
            messages.OPEN_DEVICE: _method(OpenDeviceRequest, devices.open),
            messages.ADD_INTERFACE: _method(AddInterfaceRequest, AddInterfaceMethod(context).add_interface),
            file_messages.OPEN_FILE: _method(OpenFileRequest, OpenFileMethod(context).open),
            messages.EXPLAIN: _method(ExplainRequest, ExplainMethod(context).explain),
            messages.LIST: _method(ListRequest, ListMethod(context, views).list),
            messages.WATCH: _method(WatchRequest, WatchMethod(context, scanner, views).watch),
            messages.LIST_CONTAINERS: _method(service.Nothing, ListContainersMethod(context).list),
            messages.CREATE: _method(CreateRequest, held.create),
            messages.HOLD: _method(HoldRequest, held.hold),
            messages.RELEASE: _method(ReleaseRequest, held.release),
            messages.LIST_HELD: _method(service.Nothing, held.list),
            messages.RESTRICT: _method(RestrictRequest, RestrictMethod(context).restrict),
            messages.WHO_AM_I: _method(service.Nothing, service_methods.who_am_i),
            messages.GET_STATUS: _method(service.Nothing, service_methods.get_status),
            f"{service.NAME}.GetInfo": _method(service.Nothing, service_methods.get_info),
            f"{service.NAME}.GetInterfaceDescription": _method(service.DescriptionRequest, service_methods.get_description),
        }
        self._interfaces = {name.rpartition(".")[0] for name in self._all_methods}
        self._refusal = _Method(msgspec.json.Decoder(msgspec.Raw), service_methods.refuse)
        self.choose_methods()

    def choose_methods(self) -> None:
        """Answer calls with the methods, or with Misconfigured while the context has a `configuration_fault`."""
        # Replacing the table costs the calls nothing.  Each would have to look at the context otherwise.
        self._methods = self._all_methods
        if self._context.configuration_fault:
            ours = {name for name in self._all_methods if name.startswith(f"{messages.NAME}.")} - {messages.GET_STATUS}
            self._methods = self._all_methods | dict.fromkeys(ours, self._refusal)

    def count_limit(self, error: QuotaExceeded) -> None:
        """Count a refusal because of a limit.  The dispatcher itself counts those of its calls."""
        self._limits_reached[error.limit] = self._limits_reached.get(error.limit, 0) + 1

    def _counts(self) -> Counts:
        by_method = {name: method.calls for name, method in self._all_methods.items() if method.calls}
        calls = sum(by_method.values()) + self._refusal.calls + self._unknown_calls
        return Counts(calls, self._descriptors, by_method, self._durations, self._limits_reached)

    async def identify(self, peer: Peer) -> None:
        """Find out in which container the peer is."""
        await self._identification.identify(peer)

    def dispatch(self, caller: Caller, call: IncomingCall) -> Reply | PendingReply | ReplyStream:
        """Answer a call with one reply, with one that has to be awaited, or with a stream of replies.

        Nothing that a peer does makes this raise.  Fds of the call that no method has taken are closed.
        """
        began = time.monotonic()
        try:
            method = self._methods.get(call.method)
            if method is None or call.upgrade:
                self._unknown_calls += 1
                raise self._unknown_method_error(call)
            method.calls += 1
            result = method.handler(caller, call, _decode(method.decoder, call))
        except Exception as error:
            result = self._refuse(error)
        finally:
            if call.fds:
                call.close()
        if isinstance(result, Reply):
            if self._context.audit.is_pending(caller.peer) or (result.is_refusal and not caller.is_root):
                return self._settle(caller, result, began)
            self._descriptors += len(result.fds)
            return result
        if isinstance(result, AsyncGenerator):
            return self._stream(caller, result, began)
        return self._await(caller, result, began)

    async def _await(self, caller: Caller, pending: PendingReply, began: float) -> Reply:
        try:
            reply = await pending
        except Exception as error:
            reply = self._refuse(error)
        return await self._settle(caller, reply, began)

    async def _settle(self, caller: Caller, reply: Reply, began: float) -> Reply:
        """Return the reply (taken) to a call that came at `began` (time.monotonic()), after its record has been written.

        A refusal is also delayed to the next full tick.  If the record cannot be written, return an error reply instead.
        """
        peer = caller.peer
        try:
            if self._context.audit.is_pending(peer):
                await self._context.audit.settle(peer)
            self._durations.observe(time.monotonic() - began)
            if reply.is_refusal and not caller.is_root:
                await _wait_for_tick(began)
        except BaseException as error:
            reply.close(self._context.users.closer, peer.user)
            if isinstance(error, RecordFailed):
                return self._refuse(error)
            raise
        self._descriptors += len(reply.fds)
        return reply

    async def _stream(self, caller: Caller, stream: ReplyStream, began: float) -> ReplyStream:
        peer = caller.peer
        try:
            async with contextlib.aclosing(stream):
                async for reply in stream:
                    if self._context.audit.is_pending(peer):
                        try:
                            await self._context.audit.settle(peer)
                        except BaseException:
                            reply.close(self._context.users.closer, peer.user)
                            raise
                    self._descriptors += len(reply.fds)
                    yield reply
            self._durations.observe(time.monotonic() - began)
        except Exception as error:
            reply = self._refuse(error)
            self._durations.observe(time.monotonic() - began)
            if reply.is_refusal and not caller.is_root:
                await _wait_for_tick(began)
            yield reply

    def _unknown_method_error(self, call: IncomingCall) -> BrokerError:
        if call.method in self._methods:
            return MethodNotImplemented(call.method)
        name = call.method.rpartition(".")[0]
        return MethodNotFound(call.method) if name in self._interfaces or not name else InterfaceNotFound(name)

    def _refuse(self, error: Exception) -> Reply:
        if not isinstance(error, BrokerError):
            self._context.audit.say(f"internal error: {type(error).__name__}: {error}")
            error = PermissionDenied()
        if isinstance(error, QuotaExceeded):
            self.count_limit(error)
        return Reply(error.parameters(), error=error.wire_name, is_refusal=isinstance(error, PermissionDenied))


async def _wait_for_tick(began: float) -> None:
    """Wait until a full number of ticks has passed since the call came."""
    ticks = math.ceil((time.monotonic() - began) / _REFUSAL_TICK)
    await trio.sleep(max(0.0, began + ticks * _REFUSAL_TICK - time.monotonic()))


def _method(request: type[Struct], handler: _Handler) -> _Method:
    return _Method(msgspec.json.Decoder(request), handler)


def _decode(decoder: msgspec.json.Decoder[Any], call: IncomingCall) -> Any:
    try:
        return decoder.decode(call.parameters)
    except msgspec.ValidationError as error:
        raise InvalidParameter(_parameter_path(str(error))) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidParameter("parameters") from error


def _parameter_path(message: str) -> str:
    """Return the path of the parameter that msgspec's error message is about."""
    text, _, place = message.partition(" - at `$")
    where = place.rstrip("`").lstrip(".")
    if "field `" in text:
        where = f"{where}.{text.split('`')[1]}".lstrip(".")
    return where or "parameters"
