"""Moving descriptors, files and sockets between processes, over any AF_UNIX socket.

Exactly one descriptor goes in each message.  `Conduit` here is for threads and scripts; `nsbroker.conduit.trio` has the
same for trio.
"""

from nsbroker.conduit.blocking import Conduit

__all__ = ["Conduit"]
