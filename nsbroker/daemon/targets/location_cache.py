"""A cache of the locations where namespaces were seen last, so that a search by id need not look everywhere."""

from collections.abc import Mapping

_KEPT = 1024


class LocationCache(dict[str, str]):
    """Locations for `search.find_by_id`, by ids such as net:[4026531840].  The size is limited to save memory."""

    def learn(self, locations: Mapping[str, str]) -> None:
        """Replace the contents with the locations that a whole scan found."""
        self.clear()
        self.update(list(locations.items())[-_KEPT:])

    def __setitem__(self, ns_id: str, location: str) -> None:
        if len(self) >= _KEPT:
            self.clear()
        super().__setitem__(ns_id, location)
