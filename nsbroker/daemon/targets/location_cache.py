"""Where namespaces were seen last: what saves the next search for one by its id a look everywhere."""

from collections.abc import Mapping

_KEPT = 1024


class Hints(dict[str, str]):
    """Places (`lookup.find`) by ids such as `net:[4026531840]`; as many as are worth their memory."""

    def learn(self, places: Mapping[str, str]) -> None:
        """Take what a whole pass has found in the place of what was known."""
        self.clear()
        self.update(list(places.items())[-_KEPT:])

    def __setitem__(self, link: str, place: str) -> None:
        if len(self) >= _KEPT:
            self.clear()
        super().__setitem__(link, place)
