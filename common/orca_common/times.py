"""Times as text."""

import datetime


def rfc3339(at: float) -> str:
    """Seconds since the epoch as RFC 3339 in UTC, to the millisecond: `2026-01-02T03:04:05.678Z`."""
    told = datetime.datetime.fromtimestamp(at, datetime.UTC)
    return told.isoformat(timespec="milliseconds").replace("+00:00", "Z")
