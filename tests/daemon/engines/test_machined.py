"""machined on a host without a system bus."""

from pathlib import Path

import pytest

from nsbroker.daemon.engines import machined
from nsbroker.daemon.engines.registry import EngineRegistry
from nsbroker.daemon.limits.abandonable_threads import AbandonableThreads
from nsbroker.errors import EngineUnavailable, NoSuchTarget
from tests.daemon.engines.test_registry import OFF, find


async def test_machined_is_no_engine_of_a_host_without_a_bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machined, "NEEDS", (str(tmp_path / "bus"),))
    engines = EngineRegistry({**OFF, "machined": [str(tmp_path)]}, 1.0, AbandonableThreads(8))
    with pytest.raises(NoSuchTarget):
        await find(engines, "container:web")
    with pytest.raises(EngineUnavailable, match=f"not found on this host: no {tmp_path}/bus"):
        await find(engines, "machined:web")
