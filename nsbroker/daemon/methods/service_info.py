"""The methods about the broker itself: WhoAmI, GetStatus, and those of org.varlink.service.

While the configuration is broken, `refuse` takes the place of every other method of the broker.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from nsbroker.daemon.context import Context
from nsbroker.daemon.histogram import BOUNDS, Histogram
from nsbroker.daemon.methods.call import Caller, Reply
from nsbroker.daemon.methods.identification import why_unidentified
from nsbroker.errors import Misconfigured
from nsbroker.linux.features import features
from nsbroker.protocol import messages
from nsbroker.protocol.messages import CallDurations, PeerDescription, Status, WhoAmIReply
from nsbroker.varlink import service
from nsbroker.varlink.connection import IncomingCall
from nsbroker.version import VERSION

_ONLY_ROOT = "only root is told what is wrong"


class Counts(NamedTuple):
    """What the dispatcher has counted since the start.

    `calls` are all calls, and `by_method` those of known methods, by their full names.  `durations` are those of the calls that
    were not answered at once.  `limits_reached` are refusals, by the name of the limit.
    """

    calls: int
    file_descriptors: int
    by_method: Mapping[str, int]
    durations: Histogram
    limits_reached: Mapping[str, int]


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
                    sorted(set(peer.groups())),
                    number,
                    peer.anonymous,
                    peer.unit(),
                    None if workload is None else workload.target,
                    why_unidentified(peer),
                )
            )
        )

    def get_status(self, caller: Caller, call: IncomingCall, request: service.Nothing) -> Reply:
        """Reply with the broker's status.

        Only root, unless restricted, gets the numbers that show what others do, and what is wrong with the configuration.
        """
        call.take_fds()
        context = self._context
        status = Status(
            version=VERSION,
            features=features()._asdict(),
            rules=len(context.policy.rules),
            loaded=context.policy.loaded,
            held_durable=context.held_store.durable,
            configuration_fault=self._shown_fault(caller) or None,
        )
        if caller.is_root:
            counts = self._counts()
            status.connections = context.users.connections
            status.calls = counts.calls
            status.file_descriptors = counts.file_descriptors
            status.held = len(context.held_store)
            status.reload_fault = context.reload_fault or None
            status.calls_by_method = {name.rpartition(".")[2]: calls for name, calls in counts.by_method.items()}
            status.verdicts = dict(context.audit.verdicts)
            status.waiting_calls = CallDurations(list(BOUNDS), counts.durations.counts, counts.durations.sum)
            status.limits_reached = dict(counts.limits_reached)
        return Reply(status)

    def get_info(self, caller: Caller, call: IncomingCall, request: service.Nothing) -> Reply:
        """Answer org.varlink.service.GetInfo."""
        call.take_fds()
        return Reply(self._service.info())

    def get_description(self, caller: Caller, call: IncomingCall, request: service.DescriptionRequest) -> Reply:
        """Answer org.varlink.service.GetInterfaceDescription."""
        call.take_fds()
        return Reply(self._service.description(request.interface))

    def refuse(self, caller: Caller, call: IncomingCall, request: object) -> Reply:
        """Answer any call while the configuration is broken.  Raises Misconfigured, always."""
        raise Misconfigured(self._shown_fault(caller))

    def _shown_fault(self, caller: Caller) -> str:
        fault = self._context.configuration_fault
        return fault if caller.is_root or not fault else _ONLY_ROOT
