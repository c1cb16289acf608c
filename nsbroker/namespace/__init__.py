"""Opening, creating and finding namespaces of this host without the broker.

`Namespace` is the handle of an open namespace, and `check_namespace_path` says whether a file is one.
"""

from nsbroker.namespace.handle import Namespace
from nsbroker.namespace.opening import check_namespace_path

__all__ = ["Namespace", "check_namespace_path"]
