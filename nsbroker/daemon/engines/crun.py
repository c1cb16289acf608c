"""crun, read from the file ID/status of each container in its state directory."""

from pathlib import Path

import msgspec
from msgspec import Struct

from nsbroker.daemon.engines.oci_runtime import FirstProcess, OciRuntime

PLACES = ("/run/crun",)
USER_PLACES = ("{runtime}/crun",)


class _Status(Struct, rename="kebab"):
    pid: int
    process_start_time: int
    cgroup_path: str | None = None


_decoder = msgspec.json.Decoder(_Status)


def engine(place: Path, user: int) -> OciRuntime[_Status]:
    """Return crun with its state directory at `place` (`crun --root`)."""
    return OciRuntime("crun", place, user, "status", _decoder, _first_process)


def _first_process(status: _Status) -> FirstProcess:
    return FirstProcess(status.pid, status.process_start_time, (status.cgroup_path or "").rstrip("/").rpartition("/")[2])
