"""What a controller may raise without ending the process."""

import asyncio

import pytest
from memory_log import MemoryLog

from orca_master.control.leader import run_while_leader
from orca_master.errors import NotLeader, TooLarge
from orca_master.state.log import Leadership
from orca_master.state.store import Store
from orca_master.state.table import Schema
from sim.env import sim_env


class Leading(MemoryLog):
    async def leadership_change(self, seen: Leadership) -> Leadership:
        await asyncio.Event().wait()
        raise AssertionError


class Failing:
    """A controller that raises once, then goes on."""

    def __init__(self, error: Exception) -> None:
        self._errors = [error]
        self.goes_on = asyncio.Event()

    async def run(self) -> None:
        if self._errors:
            raise self._errors.pop()
        self.goes_on.set()
        await asyncio.Event().wait()


@pytest.mark.parametrize("error", [NotLeader("gone"), TooLarge("took 61 ms of at most 20 ms")])
async def test_what_cannot_be_committed_now_is_tried_again(error: Exception):
    controller = Failing(error)
    work = asyncio.ensure_future(run_while_leader(_store(), [controller]))
    async with asyncio.timeout(60):
        await controller.goes_on.wait()
    work.cancel()


async def test_a_fault_ends_the_process():
    async with asyncio.timeout(60):
        with pytest.raises(ExceptionGroup) as raised:
            await run_while_leader(_store(), [Failing(ValueError("a fault"))])
    assert raised.group_contains(ValueError, match="a fault")


def _store() -> Store:
    return Store(sim_env(1), Leading(), Schema())
