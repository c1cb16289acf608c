"""The same work with asyncvarlink, the other Python library for varlink that passes file descriptors.

usage: python -m tests.bench.asyncvarlink_server PATH
"""

import asyncio
import os
import sys

import asyncvarlink


class Opener(asyncvarlink.VarlinkInterface, name="com.example.Opener"):
    """One method, which does less than nsbroker's Open."""

    @asyncvarlink.varlinkmethod(return_parameter="namespace")
    def Open(self, *, pid: int) -> asyncvarlink.FileDescriptor:  # noqa: N802 - the name on the wire
        """Pin the process, open its network namespace, and hand it over."""
        pidfd = os.pidfd_open(pid)
        fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        os.close(pidfd)
        return asyncvarlink.FileDescriptor(fd, should_close=True)


async def _serve(path: str) -> None:
    registry = asyncvarlink.VarlinkInterfaceRegistry()
    registry.register_interface(Opener())
    server = await asyncvarlink.create_unix_server(registry.protocol_factory, path)
    async with server:
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
