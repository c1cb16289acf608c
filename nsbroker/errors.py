"""Every error that nsbroker raises on purpose, in one tree.

`NsbrokerError` is the root.  Below it stand three branches:

* `BrokerError`: each class is one error of the interface and knows its name on the wire.  The broker answers with them;
  those about targets are raised without it, too.
* `ConnectionFailed`, `ConnectionLost`, `Timeout`, `ProtocolError`: the broker could not be asked, did not answer in time,
  or did not speak as agreed.
* the local ones: what the caller wrote (`InvalidTarget`, `InvalidType`, `ConfigurationError`) is wrong, running inside
  failed (`EnterFailed`, `ReturnFailed`), or a conduit did (`ConduitError`).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

_STANDARD = "org.varlink.service"
_OURS = "io.nsbroker.Broker"


class NsbrokerError(Exception):
    """The root of all errors of nsbroker; `str()` of it is one line that says what went wrong and what to do."""


class BrokerError(NsbrokerError):
    """The broker's own answer.  `wire_name` is its name in the interface, `fields` the parameters it carries there."""

    wire_name: ClassVar[str]
    fields: ClassVar[tuple[str, ...]] = ()

    def parameters(self) -> dict[str, Any]:
        """What goes on the wire beside the name."""
        return {field: getattr(self, field) for field in self.fields}


class PermissionDenied(BrokerError):
    """No rule of the policy allows it, or (without the broker) the kernel does not.

    From the broker it is the very same whether the target exists or not, unless a rule names the target.
    """

    wire_name = f"{_STANDARD}.PermissionDenied"

    def __init__(
        self,
        what: str = "the call",
        why: str = "the broker's policy does not allow it, or the kernel does not (`nsbroker explain` tells)",
    ) -> None:
        super().__init__(f"{what}: permission denied: {why}")


class InvalidParameter(BrokerError):
    """A parameter of a call has a wrong type or value, is missing, or is unknown.  The caller is at fault."""

    wire_name = f"{_STANDARD}.InvalidParameter"
    fields = ("parameter",)

    def __init__(self, parameter: str) -> None:
        self.parameter = parameter
        super().__init__(f"the broker refuses the parameter {parameter!r}: wrong, missing, twice or unknown")


class InterfaceNotFound(BrokerError):
    """The service has no such interface."""

    wire_name = f"{_STANDARD}.InterfaceNotFound"
    fields = ("interface",)

    def __init__(self, interface: str) -> None:
        self.interface = interface
        super().__init__(f"the broker has no interface {interface!r}")


class MethodNotFound(BrokerError):
    """The interface has no such method."""

    wire_name = f"{_STANDARD}.MethodNotFound"
    fields = ("method",)

    def __init__(self, method: str) -> None:
        self.method = method
        super().__init__(f"the broker has no method {method!r}: an older version, or a typo")


class MethodNotImplemented(BrokerError):
    """The interface has the method, this service does not serve it."""

    wire_name = f"{_STANDARD}.MethodNotImplemented"
    fields = ("method",)

    def __init__(self, method: str) -> None:
        self.method = method
        super().__init__(f"the broker does not serve {method!r} here")


class ExpectedMore(BrokerError):
    """The method gives several replies and must be called with `more`."""

    wire_name = f"{_STANDARD}.ExpectedMore"

    def __init__(self) -> None:
        super().__init__("this method gives several replies: call it with `more`")


class _TargetError(BrokerError):
    fields = ("target", "reason")

    def __init__(self, target: str, reason: str) -> None:
        self.target = target
        self.reason = reason
        super().__init__(f"{target}: {reason}")


class NoSuchTarget(_TargetError):
    """The target is not there, or no longer."""

    wire_name = f"{_OURS}.NoSuchTarget"


class TargetChanged(_TargetError):
    """The target is no longer what it was when it was looked at, or what the caller expected."""

    wire_name = f"{_OURS}.TargetChanged"


class NotANamespace(_TargetError):
    """What was found is no namespace, or one of another type than asked for."""

    wire_name = f"{_OURS}.NotANamespace"


class AmbiguousTarget(BrokerError):
    """The target fits more than one thing; `candidates` lists them, each a target that fits one only."""

    wire_name = f"{_OURS}.AmbiguousTarget"
    fields = ("target", "candidates")

    def __init__(self, target: str, candidates: list[str]) -> None:
        self.target = target
        self.candidates = candidates
        super().__init__(f"{target} is ambiguous, say which: {', '.join(candidates)}")


class SocketFailed(BrokerError):
    """The socket may be had, but the kernel does not make or bind one like it."""

    wire_name = f"{_OURS}.SocketFailed"
    fields = ("target", "socket", "reason")

    def __init__(self, target: str, socket: str, reason: str) -> None:
        self.target = target
        self.socket = socket
        self.reason = reason
        super().__init__(f"a socket {socket} in {target}: {reason}")


class NoSuchDevice(BrokerError):
    """Below the target's /dev there is no such device, or what has that name is not what it should be."""

    wire_name = f"{_OURS}.NoSuchDevice"
    fields = ("target", "device", "reason")

    def __init__(self, target: str, device: str, reason: str) -> None:
        self.target = target
        self.device = device
        self.reason = reason
        super().__init__(f"the device {device} of {target}: {reason}")


class EngineUnavailable(BrokerError):
    """A container engine did not answer, answered nonsense, or is not there."""

    wire_name = f"{_OURS}.EngineUnavailable"
    fields = ("engine", "reason")

    def __init__(self, engine: str, reason: str) -> None:
        self.engine = engine
        # What files are named is not always text.
        self.reason = reason = reason.encode(errors="backslashreplace").decode()
        super().__init__(f"the engine {engine} is unavailable: {reason}")


class NameTaken(BrokerError):
    """A name that a namespace should get is given already."""

    wire_name = f"{_OURS}.NameTaken"
    fields = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"name:{name} is given already: take it away first, or choose another")


class QuotaExceeded(BrokerError):
    """The caller has too much open already; `limit` is the name of the limit in the configuration."""

    wire_name = f"{_OURS}.QuotaExceeded"
    fields = ("limit",)

    def __init__(self, limit: str) -> None:
        self.limit = limit
        super().__init__(f"too much at once: the broker's limit {limit!r} is reached; read or close what you have, then try again")


class RecordFailed(BrokerError):
    """The broker could not record the call, and what is not recorded does not happen."""

    wire_name = f"{_OURS}.RecordFailed"
    fields = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"the broker could not record the call, so it did not do it: {reason} (see `systemctl status systemd-journald`)"
        )


class ConnectionFailed(NsbrokerError):
    """No broker could be reached at the address."""


class ConnectionLost(NsbrokerError):
    """The connection ended before the answer came."""


class Timeout(ConnectionLost, TimeoutError):
    """The broker did not answer in time, and the connection was ended.  It is a TimeoutError, too."""

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(
            f"{what}: the broker did not answer within {seconds:g} s; see whether it is stopped or overloaded: "
            "`systemctl status nsbroker`"
        )


class ProtocolError(NsbrokerError):
    """The other side did not speak varlink as agreed; the connection is of no more use."""


class InvalidTarget(NsbrokerError, ValueError):
    """A target that cannot be understood as written."""


class InvalidAddress(NsbrokerError, ValueError):
    """What cannot be the broker's address."""


class InvalidType(NsbrokerError, ValueError):
    """No such namespace type."""


class EnterFailed(NsbrokerError):
    """A namespace could not be entered; the function was not run."""


class ReturnFailed(NsbrokerError):
    """The function was run, but its thread could not go back to where it came from; the thread has ended.

    `result` is what the function returned.  Root of a user namespace meets this: it may enter the namespaces it owns, but
    not those again that it came from, unless it owns them too.
    """

    def __init__(self, text: str, result: object) -> None:
        self.result = result
        super().__init__(text)


class CommandFailed(NsbrokerError):
    """A command could not be started, or could not do its work."""


class ConduitError(NsbrokerError):
    """A conduit did not carry what it should have; nothing was kept.  The root of the errors below."""


class UnusableTransport(ConduitError):
    """What should carry descriptors cannot: it is no AF_UNIX socket."""


class TransferFailed(ConduitError):
    """Sending failed; the original is still open and still the caller's."""


class ConduitClosed(ConduitError):
    """The other side hung up instead of sending."""


class NoDescriptor(ConduitError):
    """Data came without a descriptor."""


class SeveralDescriptors(ConduitError):
    """More than one descriptor came; all were closed."""


class ForeignControlMessage(ConduitError):
    """A control message came that no conduit sends."""


class DescriptorsLost(ConduitError):
    """The message was cut off: too many descriptors are open here, or it was longer than a conduit's."""


class WrongDescriptor(ConduitError):
    """The descriptor that came is of another kind than was asked for; it was closed."""


class ConfigurationError(NsbrokerError):
    """A configuration file is wrong, or not to be trusted; the text names the file and the place."""


def _leaves(base: type[BrokerError]) -> list[type[BrokerError]]:
    return [leaf for cls in base.__subclasses__() for leaf in ([cls] if "wire_name" in vars(cls) else _leaves(cls))]


WIRE_ERRORS: Mapping[str, type[BrokerError]] = {cls.wire_name: cls for cls in _leaves(BrokerError)}
