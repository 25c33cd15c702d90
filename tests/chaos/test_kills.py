"""kill -9 of masters at random moments under a stream of deploys: nothing is lost, nothing is half there."""

import asyncio
import contextlib
import random
from pathlib import Path
from typing import Any

import pytest

from integration.conftest import RealCluster, running
from integration.test_three_masters import number_in, until_all_agree
from orca.errors import OrcaError
from orca.local import CannotStart
from totals import Totals

STREAMS = 3
KILLS, MANY_KILLS = 10, 100


class Pairs:
    """Streams of deploys of two services each, with the same number in both; what was acknowledged."""

    def __init__(self, cluster: RealCluster) -> None:
        self._cluster = cluster
        self._stop = asyncio.Event()
        self.acknowledged: dict[int, int] = {}
        self.count = 0

    def stop(self) -> None:
        self._stop.set()

    async def run(self, stream: int) -> None:
        number = 0
        async with self._cluster.client() as client:
            while not self._stop.is_set():
                number += 1
                try:
                    await client.deploy(a_pair(stream, number), wait=False)
                except OrcaError:
                    await asyncio.sleep(0.02)
                    continue
                self.acknowledged[stream] = number
                self.count += 1

    async def check(self) -> None:
        async with self._cluster.client() as client:
            known = {service["name"]: service for service in await client.status()}
        for stream, number in self.acknowledged.items():
            one, other = (number_in(known[f"{side}-{stream}"]) for side in ("left", "right"))
            assert one == other, "half of a deploy is there"
            assert one >= number, "an acknowledged deploy is lost"


def a_pair(stream: int, number: int) -> list[dict[str, Any]]:
    service = {"command": ["true", str(number)], "replicas": 0}
    return [service | {"name": f"{side}-{stream}"} for side in ("left", "right")]


async def start_again(cluster: RealCluster, chance: random.Random) -> int:
    """Some are killed once more while they start. Returns how many were."""
    kills = 0
    while chance.random() < 0.2:
        async with asyncio.TaskGroup() as group:
            starting = group.create_task(_start(cluster))
            await asyncio.sleep(chance.uniform(0.0, 1.5))
            starting.cancel()
        alive = [n for n, p in cluster.processes.items() if p.role == "master" and p.is_alive()]
        await cluster.kill(*alive)
        kills += len(alive)
    await cluster.up()
    return kills


async def _start(cluster: RealCluster) -> None:
    with contextlib.suppress(CannotStart):
        await cluster.up()


@pytest.mark.timeout(2400)
@pytest.mark.parametrize("masters", [1, 3])
async def test_masters_killed_in_a_stream_of_deploys_lose_nothing_co_01(
    masters: int, tmp_path: Path, one_seed: int | None, is_long: bool, totals: Totals
) -> None:
    """Of three, the leader more often than not, and now and then all at once."""
    chance = random.Random(one_seed if one_seed is not None else masters)
    kills, wanted = 0, MANY_KILLS if is_long else KILLS
    async with running(tmp_path / "orca", "process", 0, masters=masters) as cluster:
        pairs = Pairs(cluster)
        async with asyncio.TaskGroup() as group:
            for stream in range(STREAMS):
                group.create_task(pairs.run(stream))
            while kills < wanted:
                await asyncio.sleep(chance.uniform(0.0, 0.4))
                victims = await choose(cluster, masters, chance)
                await cluster.kill(*victims)
                kills += len(victims) + await start_again(cluster, chance)
            pairs.stop()
        await pairs.check()
        if masters > 1:
            await until_all_agree(cluster)
    assert len(pairs.acknowledged) == STREAMS
    what = "three masters" if masters == 3 else "one master"
    totals(f"kill -9 of {what}", kills=kills, acknowledged=pairs.count, lost=0, half=0)


async def choose(cluster: RealCluster, masters: int, chance: random.Random) -> list[str]:
    names = [f"master-{number}" for number in range(1, masters + 1)]
    if masters > 1 and chance.random() < 0.15:
        return names
    leader = await cluster.leader()
    return [leader if chance.random() < 0.7 else chance.choice(names)]
