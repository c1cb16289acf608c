"""The messages of AddInterface as Structs: see `messages`."""

from msgspec import Struct

from nsbroker.model.interface import InterfaceKind
from nsbroker.protocol.target_spec import TargetSpec


class InterfacePeer(Struct, forbid_unknown_fields=True):
    """The other end of a veth."""

    target: TargetSpec
    name: str


class AddInterfaceRequest(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The parameters of AddInterface."""

    target: TargetSpec
    kind: InterfaceKind
    name: str
    peer: InterfacePeer | None = None


class AddInterfaceReply(Struct, rename="camel", omit_defaults=True):
    """The reply of AddInterface."""

    interface: str
    interface_file_descriptor: int | None = None
