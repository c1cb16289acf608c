"""Control groups below /sys/fs/cgroup: see cgroups(7), and the kernel's cgroup-v1/freezer-subsystem and cgroup-v2 texts."""

import os
from collections.abc import Mapping
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


def parse(text: bytes) -> dict[str, str]:
    """Return the control groups of a process by hierarchy, from the contents of its /proc/PID/cgroup.

    The key "" is cgroup2, "name=systemd" is systemd's own hierarchy, and others are lists of controllers such as "cpu,cpuacct".
    Bytes of a path that are not UTF-8 are decoded as os.fsdecode() does.
    """
    groups: dict[str, str] = {}
    # str.splitlines() would be wrong here: it also splits at characters that the kernel does not treat as the end of a line.
    # A user who names a control group could use such a character to forge lines.
    for line in text.split(b"\n"):
        if line:
            _, name, path = os.fsdecode(line).split(":", 2)
            groups.setdefault(name, path)
    return groups


def systemd_path(groups: Mapping[str, str]) -> str:
    """Return the group that systemd put a process into: in its own hierarchy where there is one, otherwise in cgroup2."""
    # In a hierarchy that nobody manages, every process is in the root group.  systemd leaves no process there, not even itself.
    return next((path for name in ("name=systemd", "") if (path := groups.get(name, "/")) != "/"), "/")


def is_frozen(groups: Mapping[str, str]) -> bool:
    """Return whether a freezer has stopped the processes of these groups (as `procfs.cgroups` returns them).  Never raises."""
    for controllers, path in groups.items():
        if "freezer" in controllers.split(","):
            return _read(_ROOT / "freezer" / path.lstrip("/") / "freezer.state").startswith("FROZEN")
    path = groups.get("", "/").lstrip("/")
    # When version 1 is mounted too, cgroup2 is at `unified`.
    return any("frozen 1" in _read(root / path / "cgroup.events") for root in (_ROOT, _ROOT / "unified"))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
