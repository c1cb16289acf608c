"""With which files a command looks names up: those of the target."""

import contextlib
import io
from collections.abc import Awaitable, Callable, Iterator

from nsbroker.client.file_requests import read_configuration
from nsbroker.client.requests import TargetLike, parse_target
from nsbroker.errors import BrokerError, ConnectionLost
from nsbroker.model.target import Target
from nsbroker.model.target_file import CONFIGURATION
from nsbroker.names.configuration import is_alone, read_named


class Names:
    """The content of the target's resolv.conf and hosts.

    For a namespace alone, these are the files in /etc/netns/NAME, as with `ip netns exec`, and where there is none, the host's.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.files: dict[str, bytes] = {}
        """The content of each file that is to take the place of the host's."""
        self.failure = ""
        """Why a file could not be had; empty if all is well."""

    def _read_local(self) -> bool:
        """Return whether no broker is needed.  Then the files have been read."""
        if not is_alone(self.target):
            return False
        for name in CONFIGURATION:
            with self._noting():
                text = read_named(self.target, name)
                if text is not None:
                    self.files[name] = text
        return True

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except ConnectionLost:
            # A time-out is an OSError, too, but then the command's sockets would have to wait for the broker as well.
            raise
        except (BrokerError, OSError) as error:
            self.failure = self.failure or str(error)

    def fetch(self, open_file: Callable[[Target, str], io.FileIO]) -> None:
        """Read the files.  Raises ConnectionLost, and ProtocolError when the broker sends something else."""
        if not self._read_local():
            for name in CONFIGURATION:
                with self._noting(), open_file(self.target, name) as file:
                    self.files[name] = read_configuration(file)

    async def fetch_async(self, open_file: Callable[[Target, str], Awaitable[io.FileIO]]) -> None:
        """Read the files.  Raises ConnectionLost, and ProtocolError when the broker sends something else."""
        if not self._read_local():
            for name in CONFIGURATION:
                with self._noting(), await open_file(self.target, name) as file:
                    self.files[name] = read_configuration(file)


def names_of(target: TargetLike) -> Names:
    """Return the names of `target`, before they are fetched.  Raises InvalidTarget."""
    return Names(parse_target(target))
