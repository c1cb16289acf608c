"""The result of a scan of the host (`scan`)."""

from typing import NamedTuple

from msgspec import Struct

from nsbroker.daemon.discovery.relations import Relations
from nsbroker.linux.process_table import Facts
from nsbroker.model.description import Reference
from nsbroker.model.identity import NamespaceType

TYPES = tuple(NamespaceType)


class ScannedProcess(NamedTuple):
    """A process, and the ids of the namespaces that it is in, like `net:[4026531840]`, in the order of TYPES."""

    facts: Facts
    ns_ids: tuple[str, ...]


class ScannedReference(NamedTuple):
    """Something other than the processes in it that keeps the namespace `ns_id` alive.

    `process` is the process through which it was found.  It is None for a mount that the broker itself sees, for another
    namespace, and for what the broker holds under a name.
    """

    ns_id: str
    reference: Reference
    process: ScannedProcess | None


class ScanResult(Struct):
    """What one scan found.

    `places`: for each namespace, a place at which it can be opened (`search.open_place`).  `own_mounts`: the id of the mount
    namespace whose paths the broker itself sees.  `at`: the seconds since boot when the scan began.
    """

    processes: list[ScannedProcess] = []
    references: list[ScannedReference] = []
    places: dict[str, str] = {}
    relations: dict[str, Relations] = {}
    own_mounts: str = ""
    at: float = 0.0
