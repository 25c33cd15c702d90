"""How often workers are heard of, and how long one may be silent. Pure."""

import math
from dataclasses import dataclass

SAME_PACE_NODES = 250
"""Up to so many nodes the configured times hold: that is as many beats a second at 1 s."""
STEPS = 4


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds between two beats, and the TTL: the silence after which a node is down."""

    beat: float
    ttl: float

    def among(self, nodes: int) -> "Pace":
        """Both grow with the square root of the number of nodes, in steps of a quarter.

        1,000 nodes make 500 beats a second instead of 1,000, and are given 6 s instead of 3.
        """
        factor = math.ceil(STEPS * math.sqrt(nodes / SAME_PACE_NODES)) / STEPS
        return self if factor <= 1 else Pace(self.beat * factor, self.ttl * factor)

    @property
    def look(self) -> float:
        """Seconds between two looks at all nodes."""
        return self.ttl / 12
