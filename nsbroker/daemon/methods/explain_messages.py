"""What a call of Explain asks about, and the reply to it."""

from collections.abc import Sequence

from nsbroker.daemon.methods.call import validate_types
from nsbroker.daemon.policy.permission import MARK_MAX, Device, File, Mark, Permission, is_device_name
from nsbroker.errors import InvalidParameter, InvalidType
from nsbroker.model.identity import NamespaceType
from nsbroker.model.interface import InterfaceKind
from nsbroker.model.socket_kind import SocketKind
from nsbroker.model.target_file import NAMES
from nsbroker.protocol.messages import ExplainReply, ExplainRequest, PermissionVerdict, TypeVerdict

# One call may ask about this many sockets, marks, devices, interfaces, and files.  Each takes time in which nobody else is served.
_EXPLAINED_MAX = 64


def parse_wanted(request: ExplainRequest) -> tuple[Permission, ...] | None:
    """Return what the request asks about, or None for all types of namespace.  Raises InvalidParameter."""
    lists = {
        "sockets": request.sockets,
        "marks": request.marks,
        "devices": request.devices,
        "interfaces": request.interfaces,
        "files": request.files,
    }
    if all(asked is None for asked in lists.values()):
        return validate_types(request.types)
    for name, asked in lists.items():
        if asked is not None and (len(asked) > _EXPLAINED_MAX or len(set(asked)) != len(asked)):
            raise InvalidParameter(name)
    try:
        sockets = [SocketKind.parse(text) for text in request.sockets or ()]
    except InvalidType as error:
        raise InvalidParameter("sockets") from error
    marks, devices, files = request.marks or [], request.devices or [], request.files or []
    if not all(0 < mark <= MARK_MAX for mark in marks):
        raise InvalidParameter("marks")
    if not all(map(is_device_name, devices)):
        raise InvalidParameter("devices")
    if not set(files) <= set(NAMES):
        raise InvalidParameter("files")
    wanted: tuple[Permission, ...] = (
        *(validate_types(request.types) or ()),
        *sockets,
        *map(Mark, marks),
        *map(Device, devices),
        *(request.interfaces or ()),
        *map(File, files),
    )
    if not wanted:
        raise InvalidParameter(next(name for name, asked in lists.items() if asked is not None))
    return wanted


def make_reply(target: str, wanted: Sequence[Permission], rules: Sequence[str | None], unknown: str | None = None) -> ExplainReply:
    """Return the reply that gives, for each thing in `wanted`, the rule that allows it.  Without `rules`, nothing is allowed.

    `unknown` says why it is not known in which container the caller is.
    """
    pairs = list(zip(wanted, rules or [None] * len(wanted), strict=True))
    types = [TypeVerdict(item, rule is not None, rule) for item, rule in pairs if isinstance(item, NamespaceType)]
    sockets = [PermissionVerdict(str(item), rule is not None, rule) for item, rule in pairs if isinstance(item, SocketKind)]
    marks = [PermissionVerdict(f"{item.value:#x}", rule is not None, rule) for item, rule in pairs if isinstance(item, Mark)]
    devices = [PermissionVerdict(item.name, rule is not None, rule) for item, rule in pairs if isinstance(item, Device)]
    kinds = [PermissionVerdict(str(item), rule is not None, rule) for item, rule in pairs if isinstance(item, InterfaceKind)]
    files = [PermissionVerdict(item.name, rule is not None, rule) for item, rule in pairs if isinstance(item, File)]
    others = (sockets or None, devices or None, marks or None, kinds or None, files or None)
    return ExplainReply(target, bool(rules) and None not in rules, types, *others, unknown)
