"""The verbs: what each method of the interface does, for one caller, without any connection in sight."""

import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from nsbroker import interface
from nsbroker.daemon.call import Answer, Caller, Later, Stream
from nsbroker.daemon.containers import Containers
from nsbroker.daemon.devices import Devices
from nsbroker.daemon.discovery.listing import Listing
from nsbroker.daemon.discovery.passes import Passes
from nsbroker.daemon.discovery.watching import Watching
from nsbroker.daemon.holding import Holding
from nsbroker.daemon.opening import Opening
from nsbroker.daemon.parts import Parts
from nsbroker.daemon.peer import Peer
from nsbroker.daemon.sockets import Sockets
from nsbroker.errors import (
    BrokerError,
    InterfaceNotFound,
    InvalidParameter,
    MethodNotFound,
    MethodNotImplemented,
    PermissionDenied,
    RecordFailed,
)
from nsbroker.interface import (
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
from nsbroker.linux.features import features
from nsbroker.varlink import service
from nsbroker.varlink.connection import IncomingCall
from nsbroker.version import VERSION

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
        self._service = service.Service("nsbroker", "nsbroker", VERSION, "", {interface.NAME: interface.TEXT})
        opening, sockets, devices = Opening(parts), Sockets(parts), Devices(parts)
        holding, containers = Holding(parts), Containers(parts)
        passes = Passes(parts.hints)
        listing = Listing(parts, passes)
        self._methods = {
            interface.OPEN: _method(OpenRequest, opening.open),
            interface.OPEN_SOCKET: _method(OpenSocketRequest, sockets.open),
            interface.LIST_DEVICES: _method(ListDevicesRequest, devices.list),
            interface.OPEN_DEVICE: _method(OpenDeviceRequest, devices.open),
            interface.WHO_AM_I: _method(service.Nothing, self._who_am_i),
            interface.EXPLAIN: _method(ExplainRequest, opening.explain),
            interface.LIST: _method(ListRequest, listing.list),
            interface.WATCH: _method(WatchRequest, Watching(parts, passes, listing).watch),
            interface.LIST_CONTAINERS: _method(service.Nothing, containers.list),
            interface.CREATE: _method(CreateRequest, holding.create),
            interface.HOLD: _method(HoldRequest, holding.hold),
            interface.RELEASE: _method(ReleaseRequest, holding.release),
            interface.LIST_HELD: _method(service.Nothing, holding.list),
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
        if isinstance(result, AsyncGenerator):
            return self._stream(caller.peer, result)
        if not isinstance(result, Answer):
            return self._await(caller.peer, result)
        if self._parts.audit.is_pending(caller.peer):
            return self._settle(caller.peer, result)
        self._descriptors += len(result.fds)
        return result

    async def _await(self, peer: Peer, later: Later) -> Answer:
        try:
            answer = await later
        except Exception as error:
            return self._refuse(error)
        return await self._settle(peer, answer)

    async def _settle(self, peer: Peer, answer: Answer) -> Answer:
        """The answer (taken), once its record was written."""
        try:
            if self._parts.audit.is_pending(peer):
                await self._parts.audit.settle(peer)
        except BaseException as error:
            for fd in answer.fds:
                self._parts.users.closer.close(fd, peer.user)
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
        return Answer(error.parameters(), error=error.wire_name)

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
                rules=len(self._parts.policy.rules),
                loaded=self._parts.policy.loaded,
                connections=self._parts.users.connections,
                calls=self._calls,
                file_descriptors=self._descriptors,
                held=len(self._parts.holder),
                held_durable=self._parts.holder.durable,
            )
        )

    def _get_info(self, caller: Caller, call: IncomingCall, request: service.Nothing) -> Answer:
        call.take_fds()
        return Answer(self._service.info())

    def _get_description(self, caller: Caller, call: IncomingCall, request: service.DescriptionRequest) -> Answer:
        call.take_fds()
        return Answer(self._service.description(request.interface))


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
