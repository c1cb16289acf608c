"""What the tests of restricted connections share."""

from collections.abc import Callable

import pytest

from nsbroker.errors import PermissionDenied
from nsbroker.linux.features import features
from nsbroker.linux.process import Process
from nsbroker.model.target import ENGINES
from tests.world import Daemon

# Before Linux 6.5 the broker cannot tell root from others, and root has no rights that it could give up.
needs_proven_root = pytest.mark.skipif(not features().peer_pidfd, reason="before Linux 6.5 no peer is proved to be root")


def denies(*calls: Callable[[], object]) -> None:
    """Check that each of the calls is refused."""
    for call in calls:
        with pytest.raises(PermissionDenied):
            call()


def write_crun(daemon: Daemon, **containers: int) -> None:
    """Write the state files that crun would write for these containers, whose processes are no real containers."""
    for name, pid in containers.items():
        with Process.open(pid) as process:
            state = f'{{"pid": {pid}, "process-start-time": {process.start_time()}}}'
        (daemon.folder / f"crun/{name}").mkdir(parents=True)
        (daemon.folder / f"crun/{name}/status").write_text(state)
    engines = "".join(f"{name} = []\n" for name in ENGINES if name != "crun")
    (daemon.config / "nsbroker.d/engines.toml").write_text(f'[engines]\ncrun = ["{daemon.folder}/crun"]\n{engines}')
    daemon.reload()
