"""The node's lease: fenced replicas are started only with it, and end without it.

It is asked for with the beats, only while something here is fenced, and counts from the moment a beat was
sent, not from when it was acknowledged. Who ends what runs without it is the guardian, see `ports`.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from orca_common.env import Env
from orca_common.logs import get_logger
from orca_worker.ports import Guardian

TEND_SECONDS = 1.0
BEATS_IN_LEASE = 4

log = get_logger("fencing")


def lease_until(sent_at: float, seconds: float, acknowledged_at: float) -> float:
    """When a lease ends that was given for a beat. The time that both were on their way is lost."""
    return min(sent_at, acknowledged_at) + seconds


class Fencing:
    """Keep `run` running. Times are those of the clock that runs in suspend."""

    def __init__(self, env: Env, guardian: Guardian) -> None:
        self._env = env
        self._guardian = guardian
        self._until = 0.0
        self._fenced: set[str] = set()
        self._extended = asyncio.Event()
        self._wanted = asyncio.Event()
        self.most_beat_seconds = float("inf")

    async def run(self) -> None:
        """Look after the guardian: there is one as long as something is fenced."""
        while True:
            try:
                await self._guardian.tend()
            except OSError as error:
                log.error("the guardian does not run: fenced replicas will end", reason=str(error))
            await asyncio.sleep(TEND_SECONDS)

    def asks_at(self) -> float:
        """For a beat that leaves now: the time, or 0 where nothing is fenced."""
        self._wanted.clear()
        return self._env.boottime() if self._fenced else 0.0

    async def is_wanted_within(self, seconds: float) -> None:
        """Return after this time (or a part of the lease), or as soon as a start waits for the lease."""
        wait = min(seconds, self.most_beat_seconds) if self._fenced else seconds
        try:
            async with asyncio.timeout(wait):
                await self._wanted.wait()
        except TimeoutError:
            return

    async def extend(self, sent_at: float, seconds: float) -> None:
        """A master has acknowledged the beat that was sent then. Without a guardian it is worth nothing."""
        until = lease_until(sent_at, seconds, self._env.boottime())
        self.most_beat_seconds = seconds / BEATS_IN_LEASE
        if until <= self._until:
            return
        try:
            await self._guardian.extend(until)
        except OSError as error:
            log.error("the lease cannot be extended: fenced replicas will end", reason=str(error))
            return
        self._until = until
        self._extended.set()

    async def admit(self, task_id: str, grip: Mapping[str, Any]) -> bool:
        """Before a start: wait for the lease, and have the guardian know of it. False: never again."""
        self._fenced.add(task_id)
        while not self._is_held():
            if await self._guardian.is_condemned(task_id):
                return False
            self._extended.clear()
            self._wanted.set()
            await self._extended.wait()
        await self.keep(task_id, grip)
        return self._is_held() and not await self._guardian.is_condemned(task_id)

    async def keep(self, task_id: str, grip: Mapping[str, Any]) -> None:
        """Have the guardian watch over what exists already; it may know of it. Raises OSError."""
        if task_id not in self._fenced:
            self._fenced.add(task_id)
            self._wanted.set()
        await self._guardian.add(task_id, grip)

    async def leave(self, task_id: str) -> None:
        """Nothing of the task is left."""
        await self._guardian.remove(task_id)
        self._fenced.discard(task_id)

    def _is_held(self) -> bool:
        return self._env.boottime() < self._until
