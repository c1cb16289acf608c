"""The varlink protocol (UAPI.20) without I/O.

`framing` splits a stream of bytes into messages, `message` decodes and encodes one message, `connection` checks which
message may come when, and `service` has the replies of the interface org.varlink.service.  Both servers and clients use
these modules.
"""
