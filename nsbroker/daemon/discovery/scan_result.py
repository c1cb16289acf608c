"""What a pass over the host finds (`scan`)."""

from dataclasses import dataclass, field
from typing import NamedTuple

from nsbroker.daemon.discovery.relations import Relations
from nsbroker.linux.process_table import Facts
from nsbroker.model.description import Holder
from nsbroker.model.identity import NamespaceType

TYPES = tuple(NamespaceType)


class Member(NamedTuple):
    """A process, and the namespaces that it is in: `net:[4026531840]` and so on, in the order of TYPES."""

    facts: Facts
    links: tuple[str, ...]


class Sighting(NamedTuple):
    """Something else that keeps the namespace `link` alive; `members` are the process's own namespaces."""

    link: str
    holder: Holder
    member: Member | None


@dataclass(slots=True)
class Census:
    """What one pass found.  `places`: where each can be opened (`lookup.open_place`).  `own_mounts`: the mount namespace
    whose paths the broker itself sees.  `at`: the seconds since boot when it began.
    """

    members: list[Member] = field(default_factory=list)
    sightings: list[Sighting] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)
    relations: dict[str, Relations] = field(default_factory=dict)
    own_mounts: str = ""
    at: float = 0.0
