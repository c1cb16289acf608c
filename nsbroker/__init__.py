"""nsbroker opens Linux namespaces for programs that are not root.

    with nsbroker.connect() as broker, broker.open("pid:4711", "net") as ns:
        print(ns.id)

How the package is laid out, each floor importing only from those above it in this list:

    errors       all errors, one tree
    address      where the broker listens
    linux/       kernel interfaces, a file each, raising plain OSError
    identity     the types and ids of namespaces, and what one is expected to be
    socket_kind  kinds of sockets: family, type, port
    opening      pinning processes and opening files, with errors that say what was wrong
    inside/      running a function inside namespaces: blocking, trio, asyncio
    creation     making namespaces, and naming them as `ip netns` does
    namespace    Namespace, the handle
    lookup       finding a namespace by its id
    conduit/     moving descriptors, files and sockets between processes: blocking, trio
    target       where namespaces are found, as people write it
    varlink/     the protocol, without I/O
    description  what is told of a namespace
    interface    the messages of io.nsbroker.Broker
    client/      asking the broker: blocking, trio, asyncio
    daemon/      the broker itself
    cli/         the command

Importing this package loads neither trio nor systemd.
"""

from nsbroker.client.blocking import Broker, connect
from nsbroker.conduit import Conduit
from nsbroker.errors import NsbrokerError
from nsbroker.model.identity import Expectation, NamespaceId, NamespaceType
from nsbroker.model.target import Target
from nsbroker.namespace import Namespace
from nsbroker.version import VERSION

__version__ = VERSION

__all__ = [
    "Broker",
    "Conduit",
    "Expectation",
    "Namespace",
    "NamespaceId",
    "NamespaceType",
    "NsbrokerError",
    "Target",
    "__version__",
    "connect",
]
