"""Network interfaces that the broker adds: their kinds, and what can be a name of one."""

import enum

_NAME_BYTES_MAX = 15
# Both are directories in /proc/sys/net/ipv4/conf, which have the settings of all interfaces.
_RESERVED = frozenset((".", "..", "all", "default"))
_FORBIDDEN = frozenset("/:%")

INTERFACE_NAME_RULE = "write 1 to 15 bytes without '/', ':', '%' and spaces, and not '.', '..', 'all' or 'default'"


class InterfaceKind(enum.StrEnum):
    """What kind of network interface it is.

    A veth has another end, in the same or in another network (veth(4)).  What is sent through a tap is read from a file
    descriptor, and the other way round (the kernel's Documentation/networking/tuntap.rst).
    """

    VETH = "veth"
    TAP = "tap"


def is_interface_name(text: str) -> bool:
    """Return whether `text` can name an interface.

    The kernel allows some more names.  It takes '%' for a pattern, and the reserved ones would hide settings.
    """
    return (
        bool(text)
        and text.isprintable()
        and len(text.encode()) <= _NAME_BYTES_MAX
        and text not in _RESERVED
        and not any(character in _FORBIDDEN or character.isspace() for character in text)
    )
