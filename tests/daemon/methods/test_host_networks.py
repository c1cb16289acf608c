"""Whose network the host's is: told by what anybody may read, and where nothing can be read, no is the answer."""

import pytest

from nsbroker.daemon.methods import host_networks
from nsbroker.daemon.methods.host_networks import HostNetworks
from nsbroker.namespace import Namespace
from tests.world import Sleeper


def test_the_brokers_own_network_is_the_hosts() -> None:
    with Namespace.current("net") as own:
        assert HostNetworks().may_be(own)


def test_the_network_of_the_first_process_is_the_hosts_and_another_is_not(
    sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the place of the first process, which on the machine of a test is in the test's own network: another one."""
    with Sleeper("--net") as first, Namespace.from_pid(first.pid, "net") as hosts:
        real = host_networks._files_of
        monkeypatch.setattr(
            host_networks, "_files_of", lambda process: real(f"/proc/{first.pid}" if process == "/proc/1" else process)
        )
        networks = HostNetworks()
        assert hosts.call(networks.may_be, hosts)
        with Namespace.from_pid(sleeper.pid, "net") as other:
            assert not other.call(networks.may_be, other)


@pytest.mark.root
def test_a_network_that_could_be_the_hosts_is_taken_for_it(sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the first process cannot be seen; a network that another user namespace owns is surely a container's."""
    real = host_networks._files_of
    monkeypatch.setattr(host_networks, "_files_of", lambda process: None if process == "/proc/1" else real(process))
    networks = HostNetworks()
    with Namespace.from_pid(sleeper.pid, "net") as space:
        assert space.call(networks.may_be, space)
    with Sleeper("--user --map-root-user --net") as rootless, Namespace.from_pid(rootless.pid, "net") as space:
        assert not space.call(networks.may_be, space)
