"""nsbroker opens Linux namespaces for programs that are not root.

    with nsbroker.connect() as broker, broker.open("pid:4711", "net") as ns:
        print(ns.id)

How the package is laid out, each floor importing only from those above it in this list:

    errors       all errors, one tree
    address      where the broker listens
    linux/       kernel interfaces, a file each, raising plain OSError
    namespace    Namespace, the handle
    lookup       finding a namespace by its id
    target       where namespaces are found, as people write it
    varlink/     the protocol, without I/O
    interface    the messages of io.nsbroker.Broker
    client/      asking the broker: blocking and trio
    daemon/      the broker itself
    cli/         the command

Importing this package loads neither trio nor systemd.
"""

from nsbroker.client.blocking import Broker, connect
from nsbroker.errors import NsbrokerError
from nsbroker.namespace import Namespace, NamespaceId, NamespaceType
from nsbroker.target import Target
from nsbroker.version import VERSION

__version__ = VERSION

__all__ = ["Broker", "Namespace", "NamespaceId", "NamespaceType", "NsbrokerError", "Target", "__version__", "connect"]
