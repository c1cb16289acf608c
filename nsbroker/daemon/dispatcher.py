"""The verbs: what each method of the interface does, for one caller, without any connection in sight."""

import contextlib
import math
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any, NamedTuple

import msgspec
import trio
from msgspec import Struct

from nsbroker.daemon.context import Parts
from nsbroker.daemon.discovery.scanner import Passes
from nsbroker.daemon.limits.users import ROOT
from nsbroker.daemon.methods.call import Answer, Caller, Later, Stream
from nsbroker.daemon.methods.devices import Devices
from nsbroker.daemon.methods.held import HeldMethods
from nsbroker.daemon.methods.list_containers import Containers
from nsbroker.daemon.methods.list_namespaces import Listing
from nsbroker.daemon.methods.open import Opening
from nsbroker.daemon.methods.open_socket import Sockets
from nsbroker.daemon.methods.watch import Watching
from nsbroker.daemon.peer import Peer
from nsbroker.errors import (
    BrokerError,
    InterfaceNotFound,
    InvalidParameter,
    MethodNotFound,
    MethodNotImplemented,
    PermissionDenied,
    RecordFailed,
)
from nsbroker.linux.features import features
from nsbroker.protocol import messages
from nsbroker.protocol.messages import (
    CreateRequest,
    ExplainRequest,
    HoldRequest,
    ListDevicesRequest,
    ListRequest,
    OpenDeviceRequest,
    OpenRequest,
    OpenSocketRequest,
    PeerDescription,
    ReleaseRequest,
    Status,
    WatchRequest,
    WhoAmIReply,
)
from nsbroker.varlink import service
from nsbroker.varlink.connection import IncomingCall
from nsbroker.version import VERSION

# Whoever is refused is answered at full ticks, in seconds, after the question: looking for what does not exist takes another
# time than finding what the caller may not have, by up to some hundred microseconds.
_REFUSAL_TICK = 0.01

_Handler = Callable[[Caller, IncomingCall, Any], Answer | Later | Stream]


class _Method(NamedTuple):
    decoder: msgspec.json.Decoder[Any]
    handler: _Handler


class Broker:
    """Answers calls."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._calls = 0
        self._descriptors = 0
        self._service = service.Service("nsbroker", "nsbroker", VERSION, "", {messages.NAME: messages.TEXT})
        opening, sockets, devices = Opening(parts), Sockets(parts), Devices(parts)
        holding, containers = HeldMethods(parts), Containers(parts)
        passes = Passes(parts.hints)
        listing = Listing(parts, passes)
        self._methods = {
            messages.OPEN: _method(OpenRequest, opening.open),
            messages.OPEN_SOCKET: _method(OpenSocketRequest, sockets.open),
            messages.LIST_DEVICES: _method(ListDevicesRequest, devices.list),
            messages.OPEN_DEVICE: _method(OpenDeviceRequest, devices.open),
            messages.WHO_AM_I: _method(service.Nothing, self._who_am_i),
            messages.EXPLAIN: _method(ExplainRequest, opening.explain),
            messages.LIST: _method(ListRequest, listing.list),
            messages.WATCH: _method(WatchRequest, Watching(parts, passes, listing).watch),
            messages.LIST_CONTAINERS: _method(service.Nothing, containers.list),
            messages.CREATE: _method(CreateRequest, holding.create),
            messages.HOLD: _method(HoldRequest, holding.hold),
            messages.RELEASE: _method(ReleaseRequest, holding.release),
            messages.LIST_HELD: _method(service.Nothing, holding.list),
            messages.GET_STATUS: _method(service.Nothing, self._get_status),
            f"{service.NAME}.GetInfo": _method(service.Nothing, self._get_info),
            f"{service.NAME}.GetInterfaceDescription": _method(service.DescriptionRequest, self._get_description),
        }
        self._interfaces = {name.rpartition(".")[0] for name in self._methods}

    def answer(self, caller: Caller, call: IncomingCall) -> Answer | Later | Stream:
        """Answer a call: at once, later, or bit by bit.  Never raises for anything that a peer can cause; closes the fds of
        the call that nobody took.
        """
        self._calls += 1
        began = time.monotonic()
        try:
            method = self._methods.get(call.method)
            if method is None or call.upgrade:
                raise self._no_method(call)
            result = method.handler(caller, call, _decode(method, call))
        except Exception as error:
            result = self._refuse(error)
        finally:
            call.close()
        if isinstance(result, AsyncGenerator):
            return self._stream(caller.peer, result)
        if not isinstance(result, Answer):
            return self._await(caller.peer, result, began)
        if self._parts.audit.is_pending(caller.peer) or (result.is_refusal and not caller.peer.owns(ROOT)):
            return self._settle(caller.peer, result, began)
        self._descriptors += len(result.fds)
        return result

    async def _await(self, peer: Peer, later: Later, began: float) -> Answer:
        try:
            answer = await later
        except Exception as error:
            answer = self._refuse(error)
        return await self._settle(peer, answer, began)

    async def _settle(self, peer: Peer, answer: Answer, began: float) -> Answer:
        """The answer (taken) to a call that came at `began`, once its record was written and its time has come."""
        try:
            if self._parts.audit.is_pending(peer):
                await self._parts.audit.settle(peer)
            if answer.is_refusal and not peer.owns(ROOT):
                await _wait_for_tick(began)
        except BaseException as error:
            answer.close(self._parts.users.closer, peer.user)
            if isinstance(error, RecordFailed):
                return self._refuse(error)
            raise
        self._descriptors += len(answer.fds)
        return answer

    async def _stream(self, peer: Peer, stream: Stream) -> Stream:
        try:
            async with contextlib.aclosing(stream):
                async for answer in stream:
                    if self._parts.audit.is_pending(peer):
                        await self._parts.audit.settle(peer)
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
            self._parts.audit.say(f"fault: {type(error).__name__}: {error}")
            error = PermissionDenied()
        return Answer(error.parameters(), error=error.wire_name, is_refusal=isinstance(error, PermissionDenied))

    def _who_am_i(self, caller: Caller, call: IncomingCall, request: service.Nothing) -> Answer:
        call.take_fds()
        peer = caller.peer
        number = peer.number_of(peer.pid) or 0
        return Answer(WhoAmIReply(PeerDescription(peer.uid, peer.gid, sorted(peer.groups), number, peer.anonymous, peer.unit())))

    def _get_status(self, caller: Caller, call: IncomingCall, request: service.Nothing) -> Answer:
        call.take_fds()
        known = features()
        is_root = caller.peer.owns(ROOT)
        return Answer(
            Status(
                version=VERSION,
                features={name: getattr(known, name) for name in known.__slots__},
                rules=len(self._parts.policy.rules),
                loaded=self._parts.policy.loaded,
                held_durable=self._parts.holder.durable,
                # What others do is for root to know.
                connections=self._parts.users.connections if is_root else None,
                calls=self._calls if is_root else None,
                file_descriptors=self._descriptors if is_root else None,
                held=len(self._parts.holder) if is_root else None,
            )
        )

    def _get_info(self, caller: Caller, call: IncomingCall, request: service.Nothing) -> Answer:
        call.take_fds()
        return Answer(self._service.info())

    def _get_description(self, caller: Caller, call: IncomingCall, request: service.DescriptionRequest) -> Answer:
        call.take_fds()
        return Answer(self._service.description(request.interface))


async def _wait_for_tick(began: float) -> None:
    """Wait until the next full tick after the call."""
    ticks = math.ceil((time.monotonic() - began) / _REFUSAL_TICK)
    await trio.sleep(max(0.0, began + ticks * _REFUSAL_TICK - time.monotonic()))


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
