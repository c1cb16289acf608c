"""Finding out whether a network is the host's, from files that everyone may read.  In doubt, it counts as the host's."""

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
    """Another process stands in for process 1, which is in the test's own network on a machine that runs tests."""
    with Sleeper("--net") as first, Namespace.from_pid(first.pid, "net") as hosts:
        real = host_networks._net_inode
        monkeypatch.setattr(
            host_networks, "_net_inode", lambda process: real(f"/proc/{first.pid}" if process == "/proc/1" else process)
        )
        networks = HostNetworks()
        assert hosts.call(networks.may_be, hosts)
        with Namespace.from_pid(sleeper.pid, "net") as other:
            assert not other.call(networks.may_be, other)
            # It is remembered, so nothing is read again.
            monkeypatch.setattr(host_networks, "_net_inode", lambda _: None)
            assert not other.call(networks.may_be, other)


def test_of_many_networks_few_are_remembered(sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_networks, "_OTHERS_MAX", 1)
    networks = HostNetworks()
    with Sleeper("--net") as another:
        for pid in (sleeper.pid, another.pid, sleeper.pid):
            with Namespace.from_pid(pid, "net") as ns:
                assert not ns.call(networks.may_be, ns)
                assert networks._others == {ns.inode}


@pytest.mark.root
def test_a_network_that_could_be_the_hosts_counts_as_the_hosts(sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch) -> None:
    """Process 1 cannot be seen here.  Only a network that another user namespace owns is certainly a container's."""
    real = host_networks._net_inode
    monkeypatch.setattr(host_networks, "_net_inode", lambda process: None if process == "/proc/1" else real(process))
    networks = HostNetworks()
    with Namespace.from_pid(sleeper.pid, "net") as ns:
        assert ns.call(networks.may_be, ns)
    with Sleeper("--user --map-root-user --net") as rootless, Namespace.from_pid(rootless.pid, "net") as ns:
        assert not ns.call(networks.may_be, ns)
