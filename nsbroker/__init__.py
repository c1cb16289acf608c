"""nsbroker opens Linux namespaces for programs that are not root.

    with nsbroker.connect() as broker, broker.open("pid:4711", "net") as ns:
        print(ns.id)

The packages and modules, lowest layer first.  Each imports only from those above it in this list:

    errors       all errors, in one tree
    linux/       the kernel interfaces, one file each; they raise plain OSError
    model/       plain data that all layers share: types and ids of namespaces, targets, kinds of sockets, descriptions
    names/       host names: the hosts file and the name servers of a target
    inside/      running a function inside namespaces: blocking, trio, asyncio
    namespace/   `Namespace`, the handle; opening, creating and finding namespaces without the broker
    conduit/     passing file descriptors, files and sockets between processes: blocking, trio, asyncio
    varlink/     the varlink protocol, without I/O
    protocol/    the varlink interface io.nsbroker.Broker: its definition, its messages, the broker's address
    client/      the clients of the broker: blocking, trio, asyncio
    via/         running a program whose sockets are made inside a target: blocking, trio
    daemon/      the broker
    cli/         the command `nsbroker`

Importing this package imports neither trio nor systemd.
"""

from nsbroker.client.blocking import Broker, connect
from nsbroker.conduit import Conduit
from nsbroker.errors import NsbrokerError
from nsbroker.model.identity import Expectation, NamespaceId, NamespaceType
from nsbroker.model.target import Target
from nsbroker.namespace import Namespace
from nsbroker.namespace.reference import Reference
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
    "Reference",
    "Target",
    "__version__",
    "connect",
]
