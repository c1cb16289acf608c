"""Moving descriptors, files and sockets between processes, over any AF_UNIX socket.

Each message carries exactly one descriptor.  This `Conduit` is for threads and scripts; `nsbroker.conduit.trio` and
`nsbroker.conduit.asyncio` have those for their event loops.
"""

from nsbroker.conduit.blocking import Conduit

__all__ = ["Conduit"]
