"""The methods about the broker itself: WhoAmI, GetStatus, and those of org.varlink.service."""

from collections.abc import Callable
from typing import NamedTuple

from nsbroker.daemon.context import Context
from nsbroker.daemon.methods.call import Caller, Reply
from nsbroker.daemon.methods.identification import why_unidentified
from nsbroker.linux.features import features
from nsbroker.protocol import messages
from nsbroker.protocol.messages import PeerDescription, Status, WhoAmIReply
from nsbroker.varlink import service
from nsbroker.varlink.connection import IncomingCall
from nsbroker.version import VERSION


class Counts(NamedTuple):
    """Numbers of calls, and of file descriptors handed over, since the start."""

    calls: int
    file_descriptors: int


class ServiceMethods:
    """Answers calls about the broker and about the caller.  `counts` is called for each GetStatus."""

    def __init__(self, context: Context, counts: Callable[[], Counts]) -> None:
        self._context = context
        self._counts = counts
        self._service = service.Service("nsbroker", "nsbroker", VERSION, "", {messages.NAME: messages.TEXT})

    def who_am_i(self, caller: Caller, call: IncomingCall, request: service.Nothing) -> Reply:
        """Reply with what the broker knows about the caller."""
        call.take_fds()
        peer = caller.peer
        number = peer.number_of(peer.pid) or 0
        workload = peer.workload()
        return Reply(
            WhoAmIReply(
                PeerDescription(
                    peer.uid,
                    peer.gid,
                    sorted(peer.groups),
                    number,
                    peer.anonymous,
                    peer.unit(),
                    None if workload is None else workload.target,
                    why_unidentified(peer),
                )
            )
        )

    def get_status(self, caller: Caller, call: IncomingCall, request: service.Nothing) -> Reply:
        """Reply with the broker's status.  Only root, unless restricted, gets the numbers that show what others do."""
        call.take_fds()
        context, known, counts = self._context, features(), self._counts()
        is_root = caller.is_root
        return Reply(
            Status(
                version=VERSION,
                features=known._asdict(),
                rules=len(context.policy.rules),
                loaded=context.policy.loaded,
                held_durable=context.held_store.durable,
                connections=context.users.connections if is_root else None,
                calls=counts.calls if is_root else None,
                file_descriptors=counts.file_descriptors if is_root else None,
                held=len(context.held_store) if is_root else None,
            )
        )

    def get_info(self, caller: Caller, call: IncomingCall, request: service.Nothing) -> Reply:
        """Answer org.varlink.service.GetInfo."""
        call.take_fds()
        return Reply(self._service.info())

    def get_description(self, caller: Caller, call: IncomingCall, request: service.DescriptionRequest) -> Reply:
        """Answer org.varlink.service.GetInterfaceDescription."""
        call.take_fds()
        return Reply(self._service.description(request.interface))
