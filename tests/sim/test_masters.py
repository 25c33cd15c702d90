"""Workers and several masters: who leads may change, what the workers do may not suffer from it."""

import asyncio
from collections.abc import Callable

from orca_master.app.core import MasterCore
from sim.cluster import SimCluster
from sim.virtual_time import run_virtual


def connected_to(core: MasterCore, cluster: SimCluster) -> int:
    return sum(core.presence.is_connected(worker.id) for worker in cluster.workers)


async def until(condition: Callable[[], bool], seconds: float) -> float:
    """How long it took, in virtual seconds. Raises TimeoutError."""
    started = asyncio.get_running_loop().time()
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)
    return asyncio.get_running_loop().time() - started


def test_workers_leave_a_leader_that_was_cut_off_and_find_the_new_one() -> None:
    async def history() -> float:
        cluster = SimCluster(7, master_count=3)
        await cluster.start()
        masters = cluster.masters
        old = await masters.found_leader()
        await until(lambda: connected_to(old, cluster) == 3, 20.0)
        alone = next(master for master in masters.all if master.core is old)
        assert masters.wires is not None
        for other in masters.all:
            if other is not alone:
                masters.wires.cut(alone.name, other.name)
        await until(lambda: masters.leader not in (None, old), 10.0)
        new = masters.leader
        assert new is not None
        took = await until(lambda: connected_to(new, cluster) == 3, 20.0)
        assert connected_to(old, cluster) == 0, "a deposed leader keeps nobody waiting"
        await cluster.stop()
        return took

    assert run_virtual(history()) < 15.0
