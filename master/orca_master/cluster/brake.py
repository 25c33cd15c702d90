"""When so many nodes are lost at once that it is hardly the nodes. Pure.

More than a quarter of them, and more than three, within one TTL: then a switch has failed, or this
master's own line, and giving all their work to the rest would turn that into an outage. Nothing is
given away until nodes come back or somebody says that they are really gone.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Collection

MOST_NODES = 3
MOST_PART = 0.25


def is_mass_loss(
    due: Collection[float], missing: Collection[float], *, nodes: int, ttl: float
) -> bool:
    """`missing`: since when each missing node is silent (monotonic seconds), whatever became of it;
    `due`: those of them that would be given up now; `nodes`: how many there were in all.

    Those that are due together count together, whenever they were lost: what was held is not given up
    all at once when half of it is back.
    """
    return max(lost_at_once(due, missing, ttl), len(due)) > max(MOST_NODES, MOST_PART * nodes)


def lost_at_once(due: Collection[float], missing: Collection[float], ttl: float) -> int:
    """The most nodes that fell silent within one TTL in which a due one did."""
    ordered, judged = sorted(missing), sorted(due)
    most = 0
    for place, start in enumerate(ordered):
        first_due = bisect_left(judged, start)
        if first_due < len(judged) and judged[first_due] <= start + ttl:
            most = max(most, bisect_right(ordered, start + ttl) - place)
    return most
