"""Opening the namespaces that a watch reports.

Each is opened like a call to Open, through one of the targets by which the caller sees it: pinned, decided on, opened, checked and
recorded.  It is handed over only if it is the namespace that the event is about.
"""

import contextlib
from collections.abc import Iterator

from nsbroker.daemon.context import Context
from nsbroker.daemon.methods.authorization import begin
from nsbroker.daemon.methods.call import Caller
from nsbroker.daemon.policy.grants import names_of
from nsbroker.errors import BrokerError, InvalidTarget, QuotaExceeded, TargetChanged
from nsbroker.model.description import NamespaceDescription, Reference, ReferenceKind
from nsbroker.model.identity import format_id
from nsbroker.model.target import Target
from nsbroker.namespace import Namespace
from nsbroker.namespace.opening import NAME_DIRECTORIES
from nsbroker.protocol.target_spec import TargetSpec
from nsbroker.varlink.connection import IncomingCall


class WatchedOpen:
    """Opens the namespaces of events."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def open(self, caller: Caller, call: IncomingCall, description: NamespaceDescription) -> Namespace | None:
        """Return a handle (the caller's to close) of the namespace; None when it is gone by now, or may not be opened.

        Raises QuotaExceeded when the caller has too many unread descriptors.
        """
        grants = caller.grants(self._context.policy)
        for target in _targets(description):
            if not grants.may_ask(target, names_of(target), (description.type,)):
                continue
            try:
                return await self._open(caller, call, target, description)
            except QuotaExceeded:
                raise
            except (BrokerError, OSError):
                continue  # The next target may lead there.
        return None

    async def _open(self, caller: Caller, call: IncomingCall, target: Target, description: NamespaceDescription) -> Namespace:
        ns_type = description.type
        spec = TargetSpec.of(target)
        authorization = begin(self._context, "Watch", caller, call, spec, (ns_type,), hands_over=True)
        async with authorization:
            (ns,) = authorization.open()
            if (ns.inode, ns.id.unique) != (description.inode, description.id):
                raise TargetChanged(str(target), f"it has another {ns_type} namespace by now")
        return ns


def _targets(description: NamespaceDescription) -> Iterator[Target]:
    """Yield the targets that may lead to the namespace, first those that people write rules for."""
    texts = [*map(_without_user, description.containers or ()), *map(_reference_text, description.references or ())]
    if description.process is not None:
        texts.append(f"pid:{description.process.pid}")
    texts += [f"unit:{name}" for name in description.units or ()]
    texts.append(format_id(description.type, description.inode))
    for text in texts:
        # Names that others chose, such as paths, need not be valid targets.
        with contextlib.suppress(InvalidTarget):
            yield Target.parse(text)


def _without_user(container: str) -> str:
    """Return a container of the caller's own rootless engine, such as podman@1000:web, as the caller names it."""
    kind, _, name = container.partition(":")
    return f"{kind.partition('@')[0]}:{name}"


def _reference_text(reference: Reference) -> str:
    path = reference.path or ""
    if reference.kind is ReferenceKind.MOUNT and reference.pid is None:
        folder, _, name = path.rpartition("/")
        return f"name:{name}" if folder in NAME_DIRECTORIES else f"path:{path}"
    if reference.kind is ReferenceKind.THREAD:
        return f"tid:{reference.pid}/{reference.number}"
    # What the broker holds has the path name:NAME.
    return path if reference.kind is ReferenceKind.DESCRIPTOR else ""
