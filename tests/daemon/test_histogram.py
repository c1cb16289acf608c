"""Durations in buckets."""

import pytest

from nsbroker.daemon.histogram import BOUNDS, Histogram


def test_a_duration_is_in_the_first_bucket_whose_bound_it_does_not_exceed() -> None:
    histogram = Histogram()
    for seconds in (0.0, BOUNDS[0], BOUNDS[0] + 1e-9, BOUNDS[-1], BOUNDS[-1] + 1):
        histogram.observe(seconds)
    assert histogram.counts[:2] == [2, 1]
    assert histogram.counts[-2:] == [1, 1]
    assert sum(histogram.counts) == 5
    assert len(histogram.counts) == len(BOUNDS) + 1
    assert histogram.sum == pytest.approx(2 * BOUNDS[0] + 2 * BOUNDS[-1] + 1)
