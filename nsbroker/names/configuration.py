"""Where the configuration of names comes from: from a process, or for a namespace alone from /etc/netns, as in ip-netns(8)."""

from pathlib import Path

from nsbroker.model.target import Target, TargetKind

_ALONE = (TargetKind.NAME, TargetKind.NAMESPACE, TargetKind.PATH)
_HOST = Path("/etc")
_NAMED = Path("/etc/netns")


def is_alone(target: Target) -> bool:
    """Return whether the target is a namespace alone, which has no root directory with files in it."""
    return target.kind in _ALONE


def read_named(target: Target, name: str) -> bytes | None:
    """Return the file `name`, such as hosts, that root has put into /etc/netns for a namespace; None if there is none.

    Raises OSError when it cannot be read.
    """
    if target.kind is not TargetKind.NAME:
        return None
    try:
        return (_NAMED / target.value / name).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def read_alone(target: Target, name: str) -> bytes:
    """Return the file `name` for a namespace alone: the one in /etc/netns, or else the host's own.  Raises OSError."""
    named = read_named(target, name)
    return (_HOST / name).read_bytes() if named is None else named
