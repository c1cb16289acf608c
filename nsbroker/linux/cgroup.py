"""Control groups below /sys/fs/cgroup: see cgroups(7), and the kernel's cgroup-v1/freezer-subsystem and cgroup-v2 texts."""

from collections.abc import Mapping
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


def systemd_path(groups: Mapping[str, str]) -> str:
    """The group in which systemd keeps a process: of its own hierarchy where there is one, else of cgroup2."""
    # A hierarchy that nobody keeps has everything at its root; systemd leaves nothing there, not even itself.
    return next((path for name in ("name=systemd", "") if (path := groups.get(name, "/")) != "/"), "/")


def is_frozen(groups: Mapping[str, str]) -> bool:
    """Whether the processes of these groups (as `procfs.cgroups` gives them) are stopped by a freezer.  Never raises."""
    for controllers, path in groups.items():
        if "freezer" in controllers.split(","):
            return _read(_ROOT / "freezer" / path.lstrip("/") / "freezer.state").startswith("FROZEN")
    path = groups.get("", "/").lstrip("/")
    # The second is where cgroup2 is when version 1 is mounted beside it.
    return any("frozen 1" in _read(root / path / "cgroup.events") for root in (_ROOT, _ROOT / "unified"))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
