"""`nsbroker forward`: listening on one side, and leading what arrives there to the other.

How it is laid out, the lowest first:

    spec            what to forward, as command lines write it
    relay           bytes between two connected sockets
    host_names      looking host names up as this host does
    networks        the two sides: this process's own network, and that of a target
    progress        telling people and programs what happens
    socks           what a SOCKS5 client asks for
    streams         connections
    datagrams       UDP
    listener        one thing that is forwarded, from where it listens on
    running         all of them at once
"""
