"""Forgetting rows that nobody needs any more: now and then, a batch at a time."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from orca_common.env import Env
from orca_master.state.rows import State
from orca_master.state.store import Store
from orca_master.state.transaction import Transaction

SWEEP_SECONDS = 600.0
SWEPT_AT_ONCE = 200

Row = TypeVar("Row")


class Sweeper(Generic[Row]):
    """`old`: which rows those are, at a time in Unix seconds; `forget` deletes them. What looks at all rows
    is not done inside of a transaction. Runs on the leader only."""

    def __init__(
        self,
        env: Env,
        store: Store,
        old: Callable[[State, float], list[Row]],
        forget: Callable[[Transaction, Sequence[Row]], None],
    ) -> None:
        self._env = env
        self._store = store
        self._old = old
        self._forget = forget

    async def run(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            await self.sweep()

    async def sweep(self) -> None:
        old = self._old(self._store.state, self._env.now())
        for first in range(0, len(old), SWEPT_AT_ONCE):

            def forget(
                tx: Transaction, batch: list[Row] = old[first : first + SWEPT_AT_ONCE]
            ) -> None:
                self._forget(tx, batch)

            await self._store.tend(forget)
