"""The cache of locations: what it keeps, and that it stays small."""

import pytest

from nsbroker.daemon.targets.location_cache import LocationCache

pytestmark = pytest.mark.once

MOST = 1024


def test_a_whole_scan_replaces_what_was_known() -> None:
    cache = LocationCache()
    cache["net:[1]"] = "/proc/1/ns/net"
    cache.learn({"net:[2]": "/proc/2/ns/net"})
    assert cache == {"net:[2]": "/proc/2/ns/net"}


def test_of_a_scan_that_found_too_many_the_last_are_kept() -> None:
    cache = LocationCache()
    cache.learn({f"net:[{number}]": str(number) for number in range(3 * MOST)})
    assert list(cache.values()) == [str(number) for number in range(2 * MOST, 3 * MOST)]


def test_however_many_are_added_the_cache_stays_small_and_has_the_newest() -> None:
    cache = LocationCache()
    for number in range(3 * MOST):
        cache[f"net:[{number}]"] = str(number)
        assert len(cache) <= MOST
        assert cache[f"net:[{number}]"] == str(number)
