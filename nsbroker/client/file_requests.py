"""The call OpenFile, which opens a file of a target."""

import io

from nsbroker.client import results
from nsbroker.client.requests import Request, TargetLike, parse_target, target_fds
from nsbroker.protocol import file_messages
from nsbroker.protocol.file_messages import OpenFileRequest
from nsbroker.protocol.target_spec import TargetSpec


def open_file(where: TargetLike, name: str) -> Request[io.FileIO]:
    """Open the file `name` of the target for reading; the caller owns it.  Raises InvalidTarget."""
    target = parse_target(where)
    return Request(
        file_messages.OPEN_FILE,
        OpenFileRequest(TargetSpec.of(target), name),
        target_fds(target),
        results.opened_file,
        f"open the file {name} of",
        target,
        permission=f"the file {name}",
        most_fds=1,
    )
