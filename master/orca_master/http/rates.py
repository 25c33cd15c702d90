"""Rate limits: so many requests a minute for each caller or address, in named buckets.

A window is a minute of the clock. `burst` more than the limit are let through in a window before
anything is refused. Counted on each master by itself, in memory: a limit protects a master, and a
restart forgives. API documents 001 and 004 give the numbers and the headers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from orca_common.env import Env
from orca_master.errors import RateLimited

WINDOW_SECONDS = 60
MOST_CALLERS = 50_000
"""In one window and bucket. Who comes later shares one count: memory stays bounded."""
_OTHERS = "\0others"


class Rate(StrEnum):
    """The buckets of routes. A route without one is not counted."""

    STANDARD = "standard"
    OPS = "ops"
    BATCH = "batch"
    AUTH = "auth"
    JOIN = "join"


@dataclass(frozen=True, slots=True)
class Limit:
    per_minute: int
    burst: int = 0


LIMITS: Mapping[Rate, Limit] = {
    Rate.STANDARD: Limit(1000, burst=100),
    Rate.OPS: Limit(100),
    Rate.BATCH: Limit(10),
    Rate.AUTH: Limit(5),
    Rate.JOIN: Limit(600),
}
"""What the documents ask for, and our own for joining. `AUTH` and `JOIN` are counted by address, the
others by caller."""


@dataclass(slots=True)
class _Window:
    ends: int
    counts: dict[str, int]


class Rates:
    def __init__(self, env: Env, limits: Mapping[Rate, Limit] = LIMITS) -> None:
        self._env = env
        self._limits = limits
        self._windows: dict[Rate, _Window] = {}

    def count(self, rate: Rate, who: str) -> dict[str, str]:
        """One more request; the headers to answer with. Raises RateLimited, with `headers`."""
        limit = self._limits.get(rate)
        if limit is None:
            return {}
        now = self._env.now()
        window = self._windows.get(rate)
        if window is None or window.ends <= now:
            window = _Window(int(now // WINDOW_SECONDS + 1) * WINDOW_SECONDS, {})
            self._windows[rate] = window
        if who not in window.counts and len(window.counts) >= MOST_CALLERS:
            who = _OTHERS
        count = window.counts[who] = window.counts.get(who, 0) + 1
        headers = {
            "X-RateLimit-Limit": str(limit.per_minute),
            "X-RateLimit-Remaining": str(max(0, limit.per_minute - count)),
            "X-RateLimit-Reset": str(window.ends),
        }
        if count > limit.per_minute + limit.burst:
            wait = max(1, int(window.ends - now + 0.999))
            raise RateLimited(
                f"more than {limit.per_minute} requests in a minute: ask again in {wait} s",
                headers={**headers, "Retry-After": str(wait)},
            )
        return headers
