"""The messages of the method OpenFile of io.nsbroker.Broker, as Structs."""

from msgspec import Struct

from nsbroker.protocol.messages import NAME
from nsbroker.protocol.target_spec import TargetSpec

OPEN_FILE = f"{NAME}.OpenFile"


class OpenFileRequest(Struct, forbid_unknown_fields=True):
    """The parameters of OpenFile."""

    target: TargetSpec
    name: str


class OpenFileReply(Struct, rename="camel"):
    """The reply of OpenFile."""

    file_file_descriptor: int
