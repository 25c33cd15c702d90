"""Until when a node may run its fenced replicas, as the leader must assume: its memory, never in the log.

The leader notes when a beat came that asks for the lease, and acknowledges it only once a quorum has
confirmed that it still led after that. So no lease that it has given out lasts longer than its length from
that moment; and none that an earlier leader gave out longer than that from the start of this leadership,
because that leader could not be confirmed any more. See docs/adr/0016-fencing.md.
"""

from orca_common.env import Env

STOP_SECONDS = 5.0
"""What a guardian is given to end what it kills: fenced replicas get no longer grace than that."""
MARGIN_SECONDS = 1.0
"""For clocks that do not go at the same rate, and a guardian that is late."""


class Leases:
    """`seconds`: the length of a lease. All times are of this master's monotonic clock."""

    def __init__(self, env: Env, seconds: float) -> None:
        self._env = env
        self.seconds = seconds
        self._since = env.monotonic()
        self._asked: dict[str, float] = {}

    def begin(self) -> None:
        """Others may have given leases up to now: this master begins to lead."""
        self._since = self._env.monotonic()

    def asked(self, node_id: str) -> None:
        """A beat that asks for the lease has come, and may be acknowledged from now on."""
        self._asked[node_id] = self._env.monotonic()

    def left(self, node_id: str) -> float:
        """Seconds until nothing fenced runs on a node that gets no acknowledgement any more; 0: so it is."""
        last = max(self._since, self._asked.get(node_id, self._since))
        over = last + self.seconds + STOP_SECONDS + MARGIN_SECONDS
        return max(0.0, over - self._env.monotonic())
