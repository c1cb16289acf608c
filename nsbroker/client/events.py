"""The events of a watch, as programs get them."""

from msgspec import Struct

from nsbroker.client import results
from nsbroker.errors import ProtocolError
from nsbroker.model.description import NamespaceDescription, WatchEvent
from nsbroker.namespace import Namespace
from nsbroker.varlink.connection import IncomingReply


class Event(Struct):
    """One event of a watch.

    `handle` is a handle of the namespace (whoever has the event closes it).  Only the events `present` and `added` have one, if the
    watch was asked to open namespaces of that type; it is None when the namespace was gone again, or may not be opened.
    """

    event: WatchEvent
    namespace: NamespaceDescription | None = None
    handle: Namespace | None = None


def read(reply: IncomingReply) -> Event:
    """Return the event in one reply of a watch; a handle takes the fd of the reply.  Raises ProtocolError."""
    event = results.event(reply)
    number = event.namespace_file_descriptor
    handle = None if number is None else results.take_namespace(results.arrange_fds(reply, [number]))
    try:
        found = event.namespace
        if handle is not None and (found is None or (handle.type, handle.inode) != (found.type, found.inode)):
            raise ProtocolError("the broker sent another namespace than the one that its event is about")
        return Event(event.event, found, handle)
    except BaseException:
        if handle is not None:
            handle.close()
        raise
