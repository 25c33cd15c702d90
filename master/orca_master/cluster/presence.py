"""Who was heard of when, and what that makes of him: one master's memory, never in the log."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from orca_common.env import Env
from orca_master.cluster.pace import Pace
from orca_master.cluster.standing import Contact, Standing, Word, standing

LEAVE_SECONDS = 6.0
"""A worker finds out within that time that the master which holds its stream is gone, or is cut off."""
ARRIVAL_SECONDS = 60.0
"""No longer than this are those waited for who come after one another to a new leader."""


NEVER = float("-inf")


@dataclass(frozen=True, slots=True)
class Used:
    """What a node's tasks use, from its last heartbeat."""

    memory_bytes: int = 0
    cpu_millis: int = 0


class Presence:
    """This master's memory of the nodes. It is lost at a restart, on purpose.

    All times are those of the monotonic clock of this master; what workers say of time counts for
    nothing.
    """

    def __init__(self, env: Env, pace: Pace) -> None:
        self._env = env
        self._pace = pace
        self._since = self._arrived = env.monotonic()
        self._heard: dict[str, float] = {}
        self._ended: dict[str, float] = {}
        self._used: dict[str, Used] = {}
        self._connected: set[str] = set()
        self._attended: Counter[str] = Counter()
        self._through: dict[str, str | None] = {}
        self._silent_masters: dict[str, tuple[float, float]] = {}

    def listen_anew(self) -> None:
        """Nobody was silent before now: this master begins to lead, or was away."""
        self._since = self._arrived = self._env.monotonic()

    def heard(self, node_id: str, used: Used | None = None) -> None:
        now = self._env.monotonic()
        if not self._has_arrived(node_id):
            self._arrived = now
        self._heard[node_id] = now
        if used is not None:
            self._used[node_id] = used

    @contextmanager
    def attending(self, node_id: str) -> Iterator[None]:
        """While this master is busy with what a node said, the silence is its own."""
        self._attended[node_id] += 1
        try:
            yield
        finally:
            self._attended[node_id] -= 1
            if not self._attended[node_id]:
                del self._attended[node_id]
            self.heard(node_id)

    def comes_through(self, node_id: str, master_id: str | None) -> None:
        """Another master holds the node's stream; None: this one."""
        self._through[node_id] = master_id

    def master_is_silent(self, master_id: str) -> None:
        """Now. Whose streams it holds are not to blame, until they have had the time to leave it."""
        now = self._env.monotonic()
        since, last = self._silent_masters.get(master_id, (now, now))
        if now - last > LEAVE_SECONDS:
            since = now
        self._silent_masters[master_id] = since, now

    def _excused_until(self, node_id: str) -> float:
        since, last = self._silent_masters.get(self._through.get(node_id) or "", (NEVER, NEVER))
        return min(last, since + LEAVE_SECONDS)

    def connected(self, node_id: str, is_connected: bool) -> None:
        if is_connected:
            self._connected.add(node_id)
        elif node_id in self._connected:
            self._connected.discard(node_id)
            self._ended[node_id] = self._env.monotonic()

    def is_connected(self, node_id: str) -> bool:
        """Whether its worker has an open stream, as far as this master knows."""
        return node_id in self._connected

    def used(self, node_id: str) -> Used:
        return self._used.get(node_id, Used())

    def contact(self, node_id: str) -> Contact:
        """Nobody has been silent, or without a stream, for longer than this master has listened. While
        others still arrive for the first time, who has not come yet is only waiting for his turn."""
        now = self._env.monotonic()
        if node_id in self._attended:
            heard = now
        elif self._has_arrived(node_id):
            heard = self._heard[node_id]
        else:
            heard = min(self._arrived, self._since + ARRIVAL_SECONDS)
        heard = max(heard, self._excused_until(node_id))
        ended = max(self._since, self._ended.get(node_id, self._since))
        is_connected = node_id in self._connected
        return Contact(heard, None if is_connected else ended)

    def _has_arrived(self, node_id: str) -> bool:
        """Whether it was heard of since this master has listened."""
        return self._heard.get(node_id, NEVER) >= self._since

    def standing(self, node_id: str, *, nodes: int) -> Standing:
        """Where one of so many nodes stands, if its row says ready."""
        contact = self.contact(node_id)
        return standing(contact, now=self._env.monotonic(), pace=self.pace(nodes))

    def doubtful(self, *, nodes: int) -> set[str]:
        """Of so many nodes those that were heard of once, and are not just now."""
        known = self._heard
        return {id for id in known if self.standing(id, nodes=nodes).word is not Word.READY}

    def pace(self, nodes: int) -> Pace:
        return self._pace.among(nodes)
