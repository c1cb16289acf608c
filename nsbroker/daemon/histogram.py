"""A histogram with fixed buckets, for how long something took."""

from bisect import bisect_left

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""The upper bounds of the buckets, in seconds.  What took longer than the last one is in a bucket of its own."""


class Histogram:
    """Counts durations: `counts` has a number for each of BOUNDS and one for what took longer; `sum` is in seconds."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration.  A duration that is equal to a bound is in the bucket of that bound."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds
