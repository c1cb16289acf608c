"""systemd-machined, queried over D-Bus: containers of systemd-nspawn, and others that are registered with machined."""

from pathlib import Path
from typing import Any

from nsbroker.daemon.engines.container import Container, State
from nsbroker.daemon.engines.dbus import Bus, NoService, NotThere

PLACES = ("/run/systemd/machines",)
# systemd creates the directory also on hosts without D-Bus.  Without D-Bus, machined cannot know of any machine.
NEEDS = ("/run/dbus/system_bus_socket",)
USER_PLACES = ()
_SERVICE = "org.freedesktop.machine1"
_PATH = "/org/freedesktop/machine1"


class Machined:
    """The machines of the class `container`; virtual machines have no namespaces to open."""

    name = "machined"

    def __init__(self, place: Path) -> None:
        self.place = str(place)

    async def find(self, word: str) -> list[Container]:
        """Find machines by name, or by the beginning of a name: they have no other ids that people use."""
        return [container for container in await self._machines(word) if container.id.startswith(word)]

    async def containers(self) -> list[Container]:
        """List all registered containers."""
        return await self._machines("")

    async def _machines(self, word: str) -> list[Container]:
        bus = Bus(_SERVICE, self.name)
        try:
            (machines,) = await bus.call(_PATH, f"{_SERVICE}.Manager", "ListMachines")
        except NoService:
            # systemd creates the directory also on hosts where machined is not installed.
            return []
        wanted = [path for name, machine_class, _, path in machines if machine_class == "container" and name.startswith(word)]
        found = [await self._read(bus, path) for path in wanted]
        return [container for container in found if container is not None]

    async def _read(self, bus: Bus, path: str) -> Container | None:
        try:
            facts: dict[str, Any] = await bus.properties(path, f"{_SERVICE}.Machine")
        except NotThere:
            return None
        return Container(
            engine=self.name,
            id=facts["Name"],
            names=(facts["Name"],),
            state=State.of(facts["State"]),
            pid=facts["Leader"],
            groups=(facts["Unit"],),
            # Whoever registers a machine chooses its leader, and machined takes the unit from the leader: the unit proves little.
            is_init=True,
            # Where users may register machines, they choose the names.
            user=facts.get("UID", 0),
        )


def engine(place: Path, user: int) -> Machined:  # noqa: ARG001 - the host has only one
    """Return the host's systemd-machined."""
    return Machined(place)
