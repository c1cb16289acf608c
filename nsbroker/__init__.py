"""nsbroker opens Linux namespaces for programs that are not root.

    with nsbroker.connect() as broker, broker.open("pid:4711", "net") as ns:
        print(ns.id)

The packages and modules, lowest layer first.  Each imports only from those above it in this list:

    errors       all errors, in one tree
    linux/       the kernel interfaces, one file each; they raise plain OSError
    model/       plain data that all layers share: types and ids of namespaces, targets, kinds of sockets, descriptions
    capture/     capturing packets into pcapng files through a packet socket
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

Importing this package imports nearly nothing.  Each name below is imported from its module when it is used for the first time.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from nsbroker.version import VERSION

if TYPE_CHECKING:
    from nsbroker.client.blocking import Broker, connect
    from nsbroker.conduit import Conduit
    from nsbroker.errors import NsbrokerError
    from nsbroker.model.identity import Expectation, NamespaceId, NamespaceType
    from nsbroker.model.target import Target
    from nsbroker.namespace import Namespace
    from nsbroker.namespace.reference import Reference

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

_MODULES = {
    "Broker": "client.blocking",
    "Conduit": "conduit",
    "Expectation": "model.identity",
    "Namespace": "namespace",
    "NamespaceId": "model.identity",
    "NamespaceType": "model.identity",
    "NsbrokerError": "errors",
    "Reference": "namespace.reference",
    "Target": "model.target",
    "connect": "client.blocking",
}
# These work as attributes after `import nsbroker`, too, and so do the modules in them that the names above come from.
_PACKAGES = ("client", "conduit", "errors", "inside", "model", "namespace")

if not TYPE_CHECKING:  # A type checker would otherwise believe that every name exists.

    def __getattr__(name: str) -> object:
        """Import what is used for the first time: see PEP 562."""
        if name in _MODULES:
            value = getattr(import_module(f"nsbroker.{_MODULES[name]}"), name)
        elif name in _PACKAGES:
            value = import_module(f"nsbroker.{name}")
            for module in _MODULES.values():
                if module.startswith(f"{name}."):
                    import_module(f"nsbroker.{module}")
        else:
            raise AttributeError(f"module 'nsbroker' has no attribute {name!r}")
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_MODULES, *_PACKAGES})
