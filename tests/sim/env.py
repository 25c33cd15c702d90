"""An `Env` that is a function of its seed and of the running loop's clock."""

import asyncio
import random
from collections.abc import Callable
from typing import TypeVar

from orca_common.env import Disk, Env
from sim.disk import SimDisk

T = TypeVar("T")

EPOCH = 1_750_000_000.0


class SimClock:
    """Follows the running loop, so virtual when that is. `offset` makes the wall clock jump; `away` is
    how long the process stood still so far, as its monotonic clock tells it.

    Nothing takes processor time but what is added to `burnt`.
    """

    def __init__(self) -> None:
        self.offset = 0.0
        self.burnt = 0.0
        self.away = 0.0

    def now(self) -> float:
        return EPOCH + self.offset + asyncio.get_running_loop().time()

    def monotonic(self) -> float:
        return self.away + asyncio.get_running_loop().time()

    def boottime(self) -> float:
        return asyncio.get_running_loop().time()

    def thread_time(self) -> float:
        return self.burnt


class SimRandom:
    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def token_bytes(self, size: int) -> bytes:
        return self._random.randbytes(size)

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)


class InlineThreads:
    async def run(self, work: Callable[[], T]) -> T:
        return work()


def sim_env(seed: int, disk: Disk | None = None) -> Env:
    """One member's world. Give the same disk again to restart the member on it."""
    return Env(
        clock=SimClock(),
        random=SimRandom(seed),
        disk=disk if disk is not None else SimDisk(),
        threads=InlineThreads(),
    )
