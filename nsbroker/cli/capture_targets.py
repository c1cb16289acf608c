"""The targets and interfaces from which this user may capture, for programs that offer them."""

import contextlib
import os
import re
from collections.abc import Iterator, Sequence

from nsbroker.cli.capturing import PERMISSION, open_socket
from nsbroker.cli.time_limit import TimeIsUp, time_limit
from nsbroker.client import blocking
from nsbroker.errors import NsbrokerError
from nsbroker.linux import network_interfaces
from nsbroker.model.target import Target

_NETNS = "/run/netns"
# Engines name the networks of their containers so; the containers themselves are found.
_OF_ENGINES = re.compile(r"(?:cni|netns)-[0-9a-f]{8}-[0-9a-f-]+")
# Other characters could mean something to the program, or cannot stand in the name of a file.
_PLAIN = re.compile(r"[A-Za-z0-9_.:@/+-]{1,128}")


def find_targets(seconds: float) -> Sequence[str]:
    """Return the containers and named networks from which this user may capture, as far as they are found in time.

    There are none when the broker is away.  Use it in the main thread.
    """
    found: list[str] = []
    with contextlib.suppress(NsbrokerError, OSError, TimeIsUp), time_limit(seconds), blocking.connect(timeout=seconds) as broker:
        for target in dict.fromkeys(_candidates(broker)):
            if _PLAIN.fullmatch(target) and _may_capture(broker, target):
                found.append(target)  # noqa: PERF401 - what was found stays when the time is up
    return found


def find_interfaces(target: Target, timeout: float) -> Sequence[str]:
    """Return the names of the interfaces of a target.  There are none when this user may not capture from it."""
    with contextlib.suppress(NsbrokerError, OSError), blocking.connect(timeout=timeout) as broker:
        sock = open_socket(broker, target)
        with sock:
            return [name for name in network_interfaces.names(sock) if _PLAIN.fullmatch(name)]
    return ()


def _candidates(broker: blocking.Broker) -> Iterator[str]:
    yield from (f"{one.engine}:{(*one.names, one.id)[0]}" for one in broker.containers().containers)
    yield from (f"name:{one.name}" for one in broker.held())
    with contextlib.suppress(OSError):  # There is no such folder, or others may not read it.
        yield from (f"name:{name}" for name in sorted(os.listdir(_NETNS)) if not _OF_ENGINES.fullmatch(name))


def _may_capture(broker: blocking.Broker, target: str) -> bool:
    try:
        return broker.explain(target, sockets=[PERMISSION]).allowed
    except NsbrokerError:
        return False  # It has ended by now.
