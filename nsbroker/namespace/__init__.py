"""Opening, creating and finding namespaces of this host without the broker.  `Namespace` is the handle of an open namespace."""

from nsbroker.namespace.handle import Namespace

__all__ = ["Namespace"]
