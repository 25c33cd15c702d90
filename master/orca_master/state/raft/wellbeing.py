"""Whether this master's disk is one to lead with: full or slow for a while, it had better not.

Only a memory of what the driver has met; what follows from it is the driver's.
"""

SLOW_SECONDS = 0.25
"""An fsync that takes longer on average is felt by everybody who writes."""
FULL_FOR_SECONDS = 2.0
SLOW_FOR_SECONDS = 4.0


class Wellbeing:
    def __init__(self) -> None:
        self._full_since: float | None = None
        self._slow_since: float | None = None
        self.is_outpaced = False
        """Whether another voter had all of our log when we had just made it durable ourselves."""

    def was_full(self, now: float) -> None:
        """Something did not fit on the disk."""
        self._full_since = now if self._full_since is None else self._full_since

    def had_space(self) -> None:
        """Something was written."""
        self._full_since = None

    def was_synced(self, now: float, *, average_seconds: float) -> None:
        """It is durable, which took so long on average."""
        if average_seconds <= SLOW_SECONDS:
            self._slow_since = None
        elif self._slow_since is None:
            self._slow_since = now

    def trouble(self, now: float) -> str | None:
        """What has been wrong for long enough, for people; None if nothing."""
        if self._full_since is not None and now - self._full_since >= FULL_FOR_SECONDS:
            return "its disk is full"
        is_slow = self._slow_since is not None and now - self._slow_since >= SLOW_FOR_SECONDS
        if is_slow and self.is_outpaced:
            return "its disk is slower than another's"
        return None
