"""Finding out what the running kernel can do."""

import os

from nsbroker.linux.features import features


def test_probing_leaves_nothing_open() -> None:
    features.cache_clear()
    before = os.listdir("/proc/self/fd")
    assert features() == features()
    assert os.listdir("/proc/self/fd") == before
