"""How long a disk takes to make things durable, and whether that is worth a thread.

Used by both logs. A thread costs a tenth of a millisecond, as much as a quick disk; so what counts is
what a sync usually takes, and one that met a busy disk is no sign of a slow one. But no more than
one may stop the event loop for so long that a leader is missed.
"""

SLOW_SECONDS = 0.0005
"""A sync that usually takes longer would stop the event loop for more than a thread costs."""
COUNTED_SECONDS = 2 * SLOW_SECONDS
"""A longer one counts as no more, so that only many of them make a disk a slow one."""
LONG_SECONDS = 0.01
"""On average, all counted as they were: a single sync of 0.2 s is enough."""
SYNCS_IN_AVERAGE = 16


class Pace:
    def __init__(self) -> None:
        self.average_seconds = 0.0
        self._usual_seconds = 0.0

    @property
    def is_slow(self) -> bool:
        return self._usual_seconds > SLOW_SECONDS or self.average_seconds > LONG_SECONDS

    def took(self, seconds: float) -> None:
        """A sync was made in that time: of the disk alone, without a thread's own."""
        counted = min(seconds, COUNTED_SECONDS)
        self._usual_seconds += (counted - self._usual_seconds) / SYNCS_IN_AVERAGE
        self.average_seconds += (seconds - self.average_seconds) / SYNCS_IN_AVERAGE
