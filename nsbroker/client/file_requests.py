"""The call OpenFile, which opens a file of a target, and reading what it opened."""

import errno
import io

from nsbroker.client import results
from nsbroker.client.requests import Request, TargetLike, parse_target, target_fds
from nsbroker.errors import ProtocolError
from nsbroker.linux import foreign_file
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


def read_configuration(file: io.FileIO) -> bytes:
    """Return the content of a resolv.conf or hosts file that was just opened (borrowed).

    Raises ProtocolError when it has more bytes than OpenFile sends of these files.
    """
    try:
        return foreign_file.read_all(file.fileno())
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        raise ProtocolError(f"the broker sent a file that has more than {foreign_file.SIZE_MAX} bytes") from error
