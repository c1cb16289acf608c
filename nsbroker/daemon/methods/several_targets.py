"""Authorizing a call that has several targets."""

from collections.abc import Sequence
from typing import NamedTuple

from nsbroker.daemon.context import Context
from nsbroker.daemon.methods.authorization import Authorization
from nsbroker.daemon.methods.call import Caller
from nsbroker.daemon.policy.permission import Permission
from nsbroker.errors import InvalidParameter
from nsbroker.protocol.target_spec import TargetSpec
from nsbroker.varlink.connection import IncomingCall


class Part(NamedTuple):
    """One target of a call that has several: the parameter that names it, the target, and `details` as in `authorization.begin`."""

    parameter: str
    spec: TargetSpec
    details: str


def begin_parts(
    context: Context,
    method: str,
    caller: Caller,
    call: IncomingCall,
    wanted: tuple[Permission, ...],
    parts: Sequence[Part],
    *,
    hands_over: bool,
) -> list[Authorization]:
    """Begin to authorize a call that wants `wanted` of each of several targets.  Takes the call's fds.

    Enter all of them, one within the other, and call `release_pidfd` for those that were not entered.
    Raises as `authorization.begin` does.
    """
    begun: list[Authorization] = []
    indices: dict[str, int] = {}
    for parameter, spec, details in parts:
        try:
            one = Authorization(context, method, caller, spec, wanted, partly=False, hands_over=hands_over, details=details)
        except InvalidParameter as error:
            raise InvalidParameter(parameter) from error
        one.check_possible()
        begun.append(one)
        if spec.pid_file_descriptor is not None:
            indices[f"{parameter}.pidFileDescriptor"] = spec.pid_file_descriptor
    fds = dict(zip(indices, call.take_fds(indices or None), strict=True))
    for one, part in zip(begun, parts, strict=True):
        fd = fds.get(f"{part.parameter}.pidFileDescriptor")
        one.take_pidfd([] if fd is None else [fd])
    return begun
