"""runc, read from the file ID/state.json of each container in its state directory."""

from pathlib import Path

import msgspec
from msgspec import Struct

from nsbroker.daemon.engines.oci_runtime import FirstProcess, OciRuntime

PLACES = ("/run/runc",)
USER_PLACES = ("{runtime}/runc",)


class _State(Struct):
    init_process_pid: int
    init_process_start: int
    cgroup_paths: dict[str, str] = {}


_decoder = msgspec.json.Decoder(_State)


def engine(place: Path, user: int) -> OciRuntime[_State]:
    """Return runc with its state directory at `place` (`runc --root`)."""
    return OciRuntime("runc", place, user, "state.json", _decoder, _first_process)


def _first_process(state: _State) -> FirstProcess:
    groups = {path.rstrip("/").rpartition("/")[2] for path in state.cgroup_paths.values()}
    return FirstProcess(state.init_process_pid, state.init_process_start, groups.pop() if len(groups) == 1 else "")
