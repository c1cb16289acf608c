"""When the broker looks for the container of a caller, and what it remembers.

The engines are made up, because what counts here is which of them answer when; tests/engines/test_workloads.py asks real ones.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import trio

from nsbroker.daemon import configuration
from nsbroker.daemon.engines.registry import EngineRegistry
from nsbroker.daemon.engines.workload import Workload
from nsbroker.daemon.methods import identification as identification_module
from nsbroker.daemon.methods.identification import Identification, why_unidentified
from nsbroker.daemon.policy.rules import Policy
from nsbroker.errors import EngineUnavailable
from nsbroker.linux.features import features
from nsbroker.linux.process import Process
from tests.daemon.one_caller import OneCaller

pytestmark = pytest.mark.skipif(
    not features().peer_pidfd, reason="before Linux 6.5 the kernel does not show which process connected"
)

SILENT = EngineUnavailable("docker", "it did not answer")


class Engines:
    """What the search for a container finds, and how often there was one."""

    def __init__(self) -> None:
        self.found: str | None = None
        self.failures: Sequence[EngineUnavailable] = ()
        self.error: Exception | None = None
        self.names: Sequence[str] | None = None
        self.is_outer = False
        self.searches = 0
        self.places: dict[str, list[str]] = {}

    async def find_workload(self, process: Process, query: object) -> tuple[Workload | None, Sequence[EngineUnavailable]]:
        self.searches += 1
        if self.error is not None:
            raise self.error
        if self.found is None:
            return None, self.failures
        # This process stands for the first one of each container.
        names = [self.found] if self.names is None else self.names
        groups = {hierarchy: "/" if self.is_outer else path for hierarchy, path in process.cgroups().items()}
        return Workload(names, self.found, Process.open(os.getpid()), groups), self.failures


class Looked:
    """A caller in a container, as `Identification` sees it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.one = OneCaller(folder, rule("docker:*"))
        self.peer = self.one.peer
        self.engines = Engines()
        self.identification = Identification(self.one.context)
        self.use(self.engines, monkeypatch)

    def use(self, engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
        registry = EngineRegistry(engines.places, 1.0, self.one.context.threads)
        monkeypatch.setattr(registry, "find_workload", engines.find_workload)
        self.one.context.engines = registry

    def reload(self, who: str) -> None:
        path = self.folder / "nsbroker.toml"
        path.write_text(rule(who))
        self.one.context.policy = Policy(configuration.load(path))

    async def calls(self, count: int = 3) -> str:
        """Let the peer call some times, and return in which container it is then."""
        for _ in range(count):
            if self.identification.is_due(self.peer):
                await self.identification.identify(self.peer)
        workload = self.peer.workload()
        return "" if workload is None else workload.target


def rule(who: str) -> str:
    return f'[[allow]]\nname = "a"\nwho = "{who}"\ntargets = ["name:*"]\nnamespaces = ["net"]\n'


@pytest.fixture
def looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Looked]:
    looked = Looked(tmp_path, monkeypatch)
    yield looked
    looked.one.close()


async def test_a_container_that_was_found_without_failure_is_looked_for_once(looked: Looked) -> None:
    looked.engines.found = "docker:web"
    assert await looked.calls(100) == "docker:web"
    assert looked.engines.searches == 1


async def test_after_a_reload_that_names_other_engines_the_caller_is_looked_for_again(looked: Looked) -> None:
    looked.engines.found = "docker:web"
    await looked.calls()
    looked.reload("docker:w*")
    await looked.calls()
    assert looked.engines.searches == 1, "the same engines know no more"
    looked.reload("container:*")
    looked.engines.found = "lxc:web"
    assert await looked.calls() == "lxc:web"
    assert looked.engines.searches == 2
    looked.reload("user:7")
    await looked.calls()
    assert looked.engines.searches == 2, "no rule is for a container"


async def test_after_a_reload_with_other_places_of_engines_the_caller_is_looked_for_again(
    looked: Looked, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked.engines.found = "docker:web"
    await looked.calls()
    looked.engines.places, looked.engines.found = {"docker": []}, None
    looked.use(looked.engines, monkeypatch)
    assert await looked.calls() == ""
    assert looked.engines.searches == 2


async def test_when_an_engine_failed_the_search_is_repeated_after_a_moment_also_if_another_engine_knew_a_container(
    looked: Looked, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked.engines.found, looked.engines.failures = "lxc:outer", [SILENT]
    monkeypatch.setattr(identification_module, "_RETRY", 1000.0)
    assert await looked.calls() == "lxc:outer"
    assert looked.engines.searches == 1, "not at once"
    looked.peer.identification = None
    monkeypatch.setattr(identification_module, "_RETRY", 0.01)
    assert await looked.calls(1) == "lxc:outer"
    await trio.sleep(0.02)
    looked.engines.found, looked.engines.failures = "docker:inner", []
    assert await looked.calls() == "docker:inner"
    assert looked.engines.searches == 3


async def test_what_was_found_and_still_holds_stays_when_an_engine_fails(looked: Looked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identification_module, "_RETRY", -1.0)
    looked.engines.found, looked.engines.failures = "docker:web", [SILENT]
    assert await looked.calls() == "docker:web"
    # An engine that does not know the name, and one that knows only the container around it.
    for looked.engines.found, looked.engines.names, looked.engines.is_outer in (
        (None, None, False),
        ("crun:0123", (), False),
        ("lxc:outer", None, True),
    ):
        assert await looked.calls() == "docker:web"
    looked.engines.error = SILENT
    assert await looked.calls() == "docker:web"
    # The container has ended: the peer is in none, whatever the engines say.
    monkeypatch.setattr(Workload, "contains", lambda *_: False)
    assert await looked.calls() == ""
    assert why_unidentified(looked.peer) == str(SILENT)
