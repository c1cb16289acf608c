"""Every error that nsbroker raises on purpose, in one tree.

`NsbrokerError` is the root.  It has three groups of subclasses:

* `BrokerError`: the errors of the varlink interface, a class each.  The broker replies with them.  The errors about targets
  are also raised when no broker is involved, for example by `Namespace.from_pid`.
* `ConnectionFailed`, `ConnectionLost`, `Timeout`, `ProtocolError`: the broker could not be reached, did not reply in time,
  or broke the varlink protocol.
* The local errors: what the caller wrote is wrong (`InvalidTarget`, `InvalidType`, `ConfigurationError`), running a function
  inside a namespace failed (`EnterFailed`, `ReturnFailed`), a host name is not known there (`LookupFailed`), or sending or
  receiving a descriptor through a `Conduit` (an AF_UNIX socket) failed (`ConduitError`).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

_STANDARD = "org.varlink.service"
_OURS = "io.nsbroker.Broker"


class NsbrokerError(Exception):
    """The root of all errors of nsbroker; `str()` of it says what went wrong and what to do: in one line, except for those of files
    with several mistakes (`ConfigurationError`).
    """


class BrokerError(NsbrokerError):
    """An error that the broker can reply with: `wire_name` is its varlink name, `fields` are the names of its parameters."""

    wire_name: ClassVar[str]
    fields: ClassVar[tuple[str, ...]] = ()

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of the varlink error, by name."""
        return {field: getattr(self, field) for field in self.fields}


class PermissionDenied(BrokerError):
    """No rule of the policy allows it, or the connection is restricted; without the broker: the kernel does not allow it.

    The broker's reply is exactly the same whether the target exists or not, unless a rule for the caller names the target.
    """

    wire_name = f"{_STANDARD}.PermissionDenied"

    def __init__(
        self,
        what: str = "the call",
        why: str = "the broker's policy does not allow it (`nsbroker explain` shows what it allows), this connection is "
        "restricted, or the kernel does not allow it",
    ) -> None:
        super().__init__(f"{what}: permission denied: {why}")


class InvalidParameter(BrokerError):
    """A parameter of the call is missing, unknown, given twice, or has a wrong type or value.  The mistake is the caller's."""

    wire_name = f"{_STANDARD}.InvalidParameter"
    fields = ("parameter",)

    def __init__(self, parameter: str) -> None:
        self.parameter = parameter
        super().__init__(f"the broker refused the parameter {parameter!r}: it is wrong, missing, unknown or given twice")


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
        super().__init__(
            f"the broker has no method {method!r}: the broker may be older than this client, or the name is misspelled"
        )


class MethodNotImplemented(BrokerError):
    """The interface has the method, but this service does not implement it, or not with the flag `upgrade`."""

    wire_name = f"{_STANDARD}.MethodNotImplemented"
    fields = ("method",)

    def __init__(self, method: str) -> None:
        self.method = method
        super().__init__(f"the broker has the method {method!r}, but does not implement it, or not with the flag `upgrade`")


class ExpectedMore(BrokerError):
    """The method sends several replies and must be called with `more`."""

    wire_name = f"{_STANDARD}.ExpectedMore"

    def __init__(self) -> None:
        super().__init__("this method sends several replies: call it with `more`")


class _TargetError(BrokerError):
    fields = ("target", "reason")

    def __init__(self, target: str, reason: str) -> None:
        self.target = target
        self.reason = reason
        super().__init__(f"{target}: {reason}")


class NoSuchTarget(_TargetError):
    """The target does not exist, or no longer exists."""

    wire_name = f"{_OURS}.NoSuchTarget"


class TargetChanged(_TargetError):
    """The target changed while it was opened, or it is not what the caller expected."""

    wire_name = f"{_OURS}.TargetChanged"


class NotANamespace(_TargetError):
    """The target is not a namespace, or a namespace of another type than the caller asked for."""

    wire_name = f"{_OURS}.NotANamespace"


class AmbiguousTarget(BrokerError):
    """The target matches more than one thing; each of `candidates` is a target that matches only one of them."""

    wire_name = f"{_OURS}.AmbiguousTarget"
    fields = ("target", "candidates")

    def __init__(self, target: str, candidates: list[str]) -> None:
        self.target = target
        self.candidates = candidates
        super().__init__(f"{target} is ambiguous: write one of {', '.join(candidates)}")


class SocketFailed(BrokerError):
    """The policy allows the socket, but the kernel could not create it or bind it."""

    wire_name = f"{_OURS}.SocketFailed"
    fields = ("target", "socket", "reason")

    def __init__(self, target: str, socket: str, reason: str) -> None:
        self.target = target
        self.socket = socket
        self.reason = reason
        super().__init__(f"cannot open a socket of kind {socket} in {target}: {reason}")


class InterfaceFailed(BrokerError):
    """The policy allows the network interface, but it could not be added or set up."""

    wire_name = f"{_OURS}.InterfaceFailed"
    fields = ("target", "interface", "reason")

    def __init__(self, target: str, interface: str, reason: str) -> None:
        self.target = target
        self.interface = interface
        self.reason = reason
        super().__init__(f"cannot add the interface {interface} to {target}: {reason}")


class NoSuchDevice(BrokerError):
    """There is no such device below the target's /dev, it is not the expected one, or it could not be opened.

    `device` is "/dev" when the devices could not be listed.
    """

    wire_name = f"{_OURS}.NoSuchDevice"
    fields = ("target", "device", "reason")

    def __init__(self, target: str, device: str, reason: str) -> None:
        self.target = target
        self.device = device
        self.reason = reason
        what = f"list the devices of {target}: {device}" if device == "/dev" else f"use the device {device} of {target}"
        super().__init__(f"cannot {what}: {reason}")


class NoSuchFile(BrokerError):
    """The target has no such file, the file is not what the broker reads, or it could not be read.  `file` is its name."""

    wire_name = f"{_OURS}.NoSuchFile"
    fields = ("target", "file", "reason")

    def __init__(self, target: str, file: str, reason: str) -> None:
        self.target = target
        self.file = file
        self.reason = reason
        super().__init__(f"cannot open the file {file} of {target}: {reason}")


class EngineUnavailable(BrokerError):
    """A container engine is not there, did not answer, or sent an answer that makes no sense."""

    wire_name = f"{_OURS}.EngineUnavailable"
    fields = ("engine", "reason")

    def __init__(self, engine: str, reason: str) -> None:
        self.engine = engine
        # The reason may contain a file name, which need not be valid UTF-8.
        self.reason = reason = reason.encode(errors="backslashreplace").decode()
        super().__init__(f"the engine {engine} is unavailable: {reason}")


class NameTaken(BrokerError):
    """The name that a namespace should get is already in use."""

    wire_name = f"{_OURS}.NameTaken"
    fields = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"name:{name} is already in use: release it (`nsbroker release`) or delete it (`ip netns delete`) first, or choose "
            "another name"
        )


class QuotaExceeded(BrokerError):
    """The caller has reached a limit; `limit` is its name in the configuration, or a text for a limit that is not set there."""

    wire_name = f"{_OURS}.QuotaExceeded"
    fields = ("limit",)

    def __init__(self, limit: str) -> None:
        self.limit = limit
        super().__init__(f"the limit {limit!r} is reached: close, read or release what you have, or wait, then try again")


class TimedOut(BrokerError):
    """Something that the broker had to read blocked for too long; `reason` says what.  Trying again can help."""

    wire_name = f"{_OURS}.TimedOut"
    fields = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the broker gave up: {reason}; try again")


class RecordFailed(BrokerError):
    """The broker could not write the audit record of the call, so it did not carry out the call."""

    wire_name = f"{_OURS}.RecordFailed"
    fields = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"the broker could not record the call, so it did not carry it out: {reason} (see `systemctl status systemd-journald`)"
        )


class Misconfigured(BrokerError):
    """The broker started with a broken configuration and refuses every call; `reason` says what is wrong, but only to root."""

    wire_name = f"{_OURS}.Misconfigured"
    fields = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"the broker refuses every call, because its configuration is broken: {reason} (an administrator has to repair it: run "
            "`nsbroker check-config`, then `systemctl reload nsbroker`)"
        )


class ConnectionFailed(NsbrokerError):
    """No broker could be reached at the address."""


class ConnectionLost(NsbrokerError):
    """The connection ended before the reply came."""


class Timeout(ConnectionLost, TimeoutError):
    """The broker did not answer in time.  This closes the connection, unless only a call's own timeout is over.  A TimeoutError."""

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(
            f"{what}: the broker did not answer within {seconds:g} s; see whether it is stopped or overloaded: "
            "`systemctl status nsbroker`"
        )


class ProtocolError(NsbrokerError):
    """The other side broke the varlink protocol; the connection can no longer be used."""


class InvalidTarget(NsbrokerError, ValueError):
    """The target is not written as a target has to be."""


class InvalidAddress(NsbrokerError, ValueError):
    """The text cannot be the address of a broker."""


class InvalidType(NsbrokerError, ValueError):
    """There is no such type of namespace or kind of socket, or it cannot be used here."""


class EnterFailed(NsbrokerError):
    """A namespace could not be entered; the function was not run."""


class ReturnFailed(NsbrokerError):
    """The function ran, but its thread could not switch back to its former namespaces, so the thread was ended.

    `result` is what the function returned.  This happens to the root of a user namespace: it may enter the namespaces that
    its user namespace owns, but it may not return to the namespaces it came from unless its user namespace owns them, too.
    """

    def __init__(self, text: str, result: object) -> None:
        self.result = result
        super().__init__(text)


class CommandFailed(NsbrokerError):
    """A command could not be started, or it failed.  `exit_code` is that of the command line, as shells choose it."""

    def __init__(self, text: str, exit_code: int = 1) -> None:
        self.exit_code = exit_code
        super().__init__(text)


class LookupFailed(NsbrokerError, OSError):
    """A host name could not be looked up as a target does.  This is also an OSError."""


class ConduitError(NsbrokerError):
    """A conduit failed.  Received descriptors were closed.  This is the base class of the errors below."""


class UnusableTransport(ConduitError):
    """The conduit cannot carry descriptors, because it is not an AF_UNIX socket."""


class TransferFailed(ConduitError):
    """Sending failed; the descriptor is still open and still belongs to the caller."""


class CloseFailed(ConduitError):
    """The descriptor was sent, but closing it on this side failed, such as when a network file system cannot store the data."""


class ConduitClosed(ConduitError):
    """The other side closed the connection instead of sending a descriptor."""


class NoDescriptor(ConduitError):
    """The other side sent data without a descriptor."""


class SeveralDescriptors(ConduitError):
    """The other side sent more than one descriptor; all of them were closed."""


class ForeignControlMessage(ConduitError):
    """The other side sent a control message that no conduit sends (cmsg(3))."""


class DescriptorsLost(ConduitError):
    """The message was truncated: this process has too many open descriptors, or the message is longer than a conduit sends."""


class WrongDescriptor(ConduitError):
    """The received descriptor is of another kind than the caller asked for; it was closed."""


class ConfigurationError(NsbrokerError):
    """Configuration files or an installation are wrong or cannot be trusted.

    `problems` are all that are known, each in one line that says what is wrong and where, and what would be right; `str()` of the
    error has a line for each.
    """

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


def _wire_classes(base: type[BrokerError]) -> list[type[BrokerError]]:
    return [leaf for cls in base.__subclasses__() for leaf in ([cls] if "wire_name" in vars(cls) else _wire_classes(cls))]


WIRE_ERRORS: Mapping[str, type[BrokerError]] = {cls.wire_name: cls for cls in _wire_classes(BrokerError)}
"""The classes of the errors of the interface, by their varlink names."""
