"""Moving descriptors, files and sockets between processes, over any AF_UNIX socket.

Each message carries exactly one descriptor.  This `Conduit` is for threads and scripts; `nsbroker.conduit.trio` has the one
for trio.
"""

from nsbroker.conduit.blocking import Conduit

__all__ = ["Conduit"]
