"""Varlink (UAPI.20) without I/O: framing, messages, the state of a connection, the service interface.

`framing` cuts bytes into messages, `message` reads and writes one, `connection` knows which message may come when, and
`service` answers org.varlink.service.  Servers and clients share all of it.
"""
