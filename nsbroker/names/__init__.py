"""Looking up host names as a target does: its hosts file first, then the servers of its resolv.conf.

The content of both files, and the sockets to the servers, come from the caller.  Only `blocking` and `awaiting` import dnspython.
"""
