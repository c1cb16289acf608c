"""The hosts file: see hosts(5)."""

import ipaddress

_LOOPBACK = ("127.0.0.1", "::1")


def fixed(name: str) -> list[str]:
    """Return the addresses of a name that no file and no server needs to be asked for: a number, or localhost (RFC 6761)."""
    return [name] if is_address(name) else list(_LOOPBACK) if _fold(name) == "localhost" else []


def find(text: bytes, name: str) -> list[str]:
    """Return the addresses of `name` in a hosts file, in its order.  Lines that make no sense are ignored."""
    wanted = _fold(name)
    found: dict[str, None] = {}
    for line in text.decode(errors="replace").split("\n"):
        address, *names = line.partition("#")[0].split() or [""]
        if wanted in map(_fold, names) and is_address(address):
            found[address] = None
    return list(found)


def is_address(text: str) -> bool:
    """Return whether `text` is a numeric address without a scope: the interfaces of a target have other names and numbers here."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def _fold(name: str) -> str:
    return name.removesuffix(".").lower()
