"""A network with an interface that receives what a test sends."""

import contextlib
import subprocess
from collections.abc import Iterator

import pytest

from nsbroker.capture import libpcap
from tests.world import eventually

needs_libpcap = pytest.mark.skipif(
    libpcap._load() is None, reason="libpcap is not installed, which tcpdump brings: nothing was captured with a filter"
)
FEED = "feed"
"""The end of the wire in the network of the tests."""
INSIDE = "eth0"
"""The end of the wire in the network `name:blue`."""


def ip(*words: str) -> str:
    """Run ip(8), and return what it prints."""
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=True).stdout


@contextlib.contextmanager
def wire(network: str) -> Iterator[None]:
    """Connect the named network to that of the tests.  Neither end has an address, so nothing is sent by itself."""
    ends = ["type", "veth", "peer", "name", INSIDE, "netns", network]
    if subprocess.run(["ip", "link", "add", FEED, *ends], capture_output=True, check=False).returncode:
        pytest.skip("this kernel has no veth: nothing was captured")
    try:
        for at, name in ((), FEED), (("-n", network), INSIDE):
            ip(*at, "link", "set", name, "addrgenmode", "none")
            ip(*at, "link", "set", name, "up")
        ip("-n", network, "link", "set", "lo", "up")
        # The kernel sees a moment later that both ends are up.
        eventually(lambda: " state UP " in ip("-o", "link", "show", FEED), "the wire is up")
        yield
    finally:
        # It may be deleted already, by a test or together with the network.
        subprocess.run(["ip", "link", "delete", FEED], capture_output=True, check=False)
