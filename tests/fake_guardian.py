"""A guardian in memory and in the loop's time. As the machine, it outlives the worker that uses it."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from orca_common.env import Env
from orca_worker.fencing import Fencing

LOOK_SECONDS = 0.25


def a_fencing(env: Env) -> Fencing:
    """Where nothing is fenced."""
    return Fencing(env, FakeGuardian(lambda _: None))


class FakeGuardian:
    """`end` kills what runs of a task; `run` has to be kept running for leases to end."""

    def __init__(self, end: Callable[[str], None]) -> None:
        self._end = end
        self.until = 0.0
        self.tasks: dict[str, Mapping[str, Any]] = {}
        self.condemned: set[str] = set()

    async def run(self) -> None:
        while True:
            self.look(asyncio.get_running_loop().time())
            await asyncio.sleep(LOOK_SECONDS)

    def look(self, now: float) -> None:
        if now >= self.until:
            self.condemned |= set(self.tasks)
            self.tasks.clear()
        for task_id in self.condemned:
            self._end(task_id)

    async def add(self, task_id: str, grip: Mapping[str, Any]) -> None:
        if task_id not in self.condemned:
            self.tasks[task_id] = grip

    async def remove(self, task_id: str) -> None:
        self.tasks.pop(task_id, None)
        self.condemned.discard(task_id)

    async def extend(self, until: float) -> None:
        self.until = until

    async def is_condemned(self, task_id: str) -> bool:
        return task_id in self.condemned

    async def tend(self) -> None:
        """It never ends."""
