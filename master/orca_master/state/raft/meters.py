"""What is counted and measured of one log, as plain numbers: whoever shows metrics reads them.

Written on the loop's thread only. Durations are seconds.
"""

from bisect import bisect_left
from dataclasses import dataclass, field

BOUNDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


@dataclass(slots=True)
class Histogram:
    """`buckets[n]` counts what was at most `bounds[n]` and more than the bound before; the last, more."""

    bounds: tuple[float, ...] = BOUNDS
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    count: int = 0
    sum: float = 0.0

    def observe(self, seconds: float) -> None:
        self.buckets[bisect_left(self.bounds, seconds)] += 1
        self.count += 1
        self.sum += seconds


@dataclass(slots=True)
class Meters:
    elections_stood: int = 0
    leadership_changes: int = 0
    """How often this master has taken another one, or itself, for the leader of a newer term."""
    snapshots_taken: int = 0
    snapshots_received: int = 0
    snapshots_sent: int = 0
    last_fsync_seconds: float = 0.0
    fsync: Histogram = field(default_factory=Histogram)
    proposal: Histogram = field(default_factory=Histogram)
    """From `propose` until the entry was applied here, for proposals that were committed."""
