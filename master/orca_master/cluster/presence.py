"""Who was heard of when, and who is down: heartbeats never enter the log, only `ready → down` does."""

import asyncio
from dataclasses import dataclass

from orca_common.env import Env
from orca_common.logs import get_logger
from orca_master.cluster.model import NODES, NodeState
from orca_master.cluster.operations import mark_down
from orca_master.state.store import Store

LOOK_EVERY_SECONDS = 0.5

log = get_logger("cluster")


@dataclass(frozen=True, slots=True)
class Used:
    """What a node's tasks use, from its last heartbeat."""

    memory_bytes: int = 0
    cpu_millis: int = 0


class Presence:
    """This master's memory of the nodes. It is lost at a restart, on purpose."""

    def __init__(self, env: Env) -> None:
        self._env = env
        self._heard: dict[str, float] = {}
        self._used: dict[str, Used] = {}
        self._connected: set[str] = set()

    def heard(self, node_id: str, used: Used | None = None) -> None:
        self._heard[node_id] = self._env.monotonic()
        if used is not None:
            self._used[node_id] = used

    def heard_at(self, node_id: str) -> float:
        """On the monotonic clock; minus infinity if never."""
        return self._heard.get(node_id, float("-inf"))

    def is_connected(self, node_id: str) -> bool:
        """Whether its worker has an open stream, as far as this master knows."""
        return node_id in self._connected

    def connected(self, node_id: str, is_connected: bool) -> None:
        if is_connected:
            self._connected.add(node_id)
        else:
            self._connected.discard(node_id)

    def used(self, node_id: str) -> Used:
        return self._used.get(node_id, Used())


class Liveness:
    """Declares nodes down that were not heard of for too long. Runs on the leader only.

    It judges nobody before it has listened for the whole time itself: after a restart or a
    fail-over every node gets its full time to connect again.
    """

    def __init__(self, env: Env, store: Store, presence: Presence, *, down_after: float) -> None:
        self._env = env
        self._store = store
        self._presence = presence
        self._down_after = down_after

    async def run(self) -> None:
        listening_since = self._env.monotonic()
        while True:
            await asyncio.sleep(LOOK_EVERY_SECONDS)
            for node_id, name in self._silent(listening_since):
                reason = f"not heard of for {self._down_after:g} s"
                log.warning("node is down", node=name, id=node_id, reason=reason)
                await self._mark(node_id, reason)

    async def _mark(self, node_id: str, reason: str) -> None:
        now = self._env.now()
        await self._store.update(lambda tx: mark_down(tx, node_id, reason=reason, now=now))

    def _silent(self, since: float) -> list[tuple[str, str]]:
        limit = self._env.monotonic() - self._down_after
        return [
            (node.id, node.name)
            for node in self._store.state.scan(NODES)
            if node.state is NodeState.READY
            and max(since, self._presence.heard_at(node.id)) < limit
        ]
