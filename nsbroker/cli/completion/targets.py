"""The targets that shells offer: those that the user may open, as far as the broker names them in a moment."""

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator

from nsbroker.cli.time_limit import TimeIsUp, time_limit
from nsbroker.client import blocking
from nsbroker.errors import NsbrokerError
from nsbroker.model.identity import NamespaceType, format_id
from nsbroker.model.target import ENGINES, KINDS, UNIT_SUFFIXES

TIME = 1.0
"""The seconds after which nothing more is looked for: whoever pressed the key waits."""
_NETNS = "/run/netns/"
# A shell would have to quote other characters, and people choose names of their own.
_PLAIN = re.compile(r"[A-Za-z0-9_.:@/+\[\]-]+")


def find(prefix: str) -> list[str]:
    """Return targets that begin with `prefix`, and kinds of targets such as `pid:`.

    These are fewer, or none, without any error, when the broker is away or slow.
    """
    kind, colon, _ = prefix.partition(":")
    found = [] if colon else [word for word in ("self", *(f"{known}:" for known in KINDS)) if word.startswith(prefix)]
    with contextlib.suppress(NsbrokerError, OSError, TimeIsUp), time_limit(TIME), blocking.connect(timeout=TIME) as broker:
        for source in _sources(kind if colon else ""):
            more = {word for word in source(broker) if word.startswith(prefix) and _PLAIN.fullmatch(word)}
            found += sorted(more.difference(found))
    return found


def _sources(kind: str) -> tuple[Callable[[blocking.Broker], Iterable[str]], ...]:
    """Return the functions that find targets of this kind (empty: not known yet), the fastest first."""
    if kind == "name":
        return _held, _listed
    if kind == "container" or kind in ENGINES:
        return (_containers,)
    if kind in ("pid", "unit", *NamespaceType):
        return (_listed,)
    return () if kind else (_held, _containers)


def _held(broker: blocking.Broker) -> Iterator[str]:
    yield from (f"name:{one.name}" for one in broker.held())


def _containers(broker: blocking.Broker) -> Iterator[str]:
    for one in broker.containers().containers:
        for name in one.names[:1]:
            yield f"{one.engine}:{name}"
            yield f"container:{name}"


def _listed(broker: blocking.Broker) -> Iterator[str]:
    for one in broker.list():
        yield format_id(one.type, one.inode)
        if one.process is not None:
            yield f"pid:{one.process.pid}"
        yield from (f"unit:{unit}" for unit in one.units or () if unit.endswith(UNIT_SUFFIXES))
        # A path with a process is one that only this process sees, so it is no name for others.
        paths = [reference.path for reference in one.references or () if reference.pid is None and reference.path is not None]
        yield from (f"name:{path.removeprefix(_NETNS)}" for path in paths if path.startswith(_NETNS))
