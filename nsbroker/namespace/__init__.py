"""Namespaces of this host, without the broker: opening, creating and finding them.  `Namespace` is the handle of one."""

from nsbroker.namespace.handle import Namespace

__all__ = ["Namespace"]
