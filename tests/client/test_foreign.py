"""A client from another project can use the broker: asyncvarlink."""

import asyncio
import os
from collections.abc import Sequence
from typing import Any

from asyncvarlink import VarlinkClientProtocol, VarlinkMethodCall, connect_unix_varlink

from nsbroker.protocol import messages
from tests.world import Daemon, Sleeper


def ask(daemon: Daemon, method: str, parameters: dict[str, Any], fds: Sequence[int] = ()) -> tuple[Any, list[int]]:
    """Make one call, and return its parameters or error, and duplicates (the caller's) of the fds of the reply."""

    async def call() -> tuple[Any, list[int]]:
        transport, protocol = await connect_unix_varlink(VarlinkClientProtocol, daemon.socket)
        done = asyncio.get_running_loop().create_future()
        outcome = await protocol.call(VarlinkMethodCall(method, parameters), list(fds) or None, done)
        assert outcome
        reply, got = outcome
        copies = [os.dup(fd.fileno()) for fd in got] if got else []
        done.set_result(None)
        transport.close()
        await asyncio.sleep(0)
        return reply.error or reply.parameters, copies

    return asyncio.run(call())


def test_it_reads_the_service_info_and_the_interfaces(daemon: Daemon) -> None:
    info, _ = ask(daemon, "org.varlink.service.GetInfo", {})
    assert info["product"] == "nsbroker"
    assert info["interfaces"] == ["org.varlink.service", "io.nsbroker.Broker"]
    for name in info["interfaces"]:
        description, _ = ask(daemon, "org.varlink.service.GetInterfaceDescription", {"interface": name})
        assert f"interface {name}\n" in description["description"]
    assert description["description"] == messages.TEXT.read_text()
    assert (
        ask(daemon, "org.varlink.service.GetInterfaceDescription", {"interface": "a.b"})[0]
        == "org.varlink.service.InterfaceNotFound"
    )


def test_it_opens_a_namespace_and_the_descriptor_works(daemon: Daemon, sleeper: Sleeper) -> None:
    reply, [fd] = ask(daemon, "io.nsbroker.Broker.Open", {"target": {"pid": sleeper.pid}, "types": ["net"]})
    assert reply["namespaces"][0]["inode"] == os.fstat(fd).st_ino == sleeper.inode("net")
    os.close(fd)


def test_it_sends_a_pidfd(daemon: Daemon, sleeper: Sleeper) -> None:
    pidfd = os.pidfd_open(sleeper.pid)
    _, [fd] = ask(daemon, "io.nsbroker.Broker.Open", {"target": {"pidFileDescriptor": 0}, "types": ["uts"]}, [pidfd])
    assert os.fstat(fd).st_ino == sleeper.inode("uts")
    os.close(fd)
    os.close(pidfd)
