"""Single faults between three real masters, each with what it may and may not cost."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from chaos.faults import JUMPS
from chaos.registers import a_register, value_of
from chaos.world import World, a_world, loaded
from totals import Totals

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(180),
    pytest.mark.xdist_group("partitions"),
]

SLOW_SYNC_US = 500_000
BY_ITSELF = 1
"""So many elections a busy machine may cause."""


@pytest.fixture
async def world(
    network_namespaces: None, shim_library: Path, tmp_path: Path
) -> AsyncIterator[World]:
    async with a_world(tmp_path, shim_library, seed=1) as running:
        yield running


async def write(http: aiohttp.ClientSession, world: World, names: list[str], value: int) -> None:
    """Until one of these masters acknowledges it."""
    async with asyncio.timeout(15):
        while True:
            for name in names:
                url = f"{world.masters[name].api}/api/v1/deploy?wait=false"
                body = {"services": [a_register("x", value)]}
                with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                    async with http.post(url, json=body) as answer:
                        if answer.status == 202:
                            return
            await asyncio.sleep(0.02)


async def read(http: aiohttp.ClientSession, world: World, name: str) -> int | None:
    """None: it did not say."""
    with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
        async with http.get(f"{world.masters[name].api}/api/v1/status?project=x") as answer:
            if answer.status == 200:
                return value_of((await answer.json())["services"][0])
            assert answer.status in (503, 504), await answer.text()
    return None


async def test_a_leader_that_is_cut_off_answers_no_read_from_what_it_knew_co_05(
    world: World,
) -> None:
    async with world.http(6.0) as http:
        alone = await world.leader()
        others = world.others(alone)
        await write(http, world, [alone], 1)
        world.network.isolate(alone)
        reads = [asyncio.ensure_future(read(http, world, alone)) for _ in range(20)]
        await write(http, world, others, 2)
        reads += [asyncio.ensure_future(read(http, world, alone)) for _ in range(20)]
        answers = await asyncio.gather(*reads)
        assert set(answers[20:]) == {None}, "begun after a newer write was acknowledged elsewhere"
        assert set(answers[:20]) <= {None, 1}
        world.network.heal()
        async with asyncio.timeout(5):
            while (answer := await read(http, world, alone)) is None:
                await asyncio.sleep(0.05)
        assert answer == 2


async def test_one_direction_that_is_dead_makes_no_storm_of_elections_co_08(world: World) -> None:
    """Of all kinds: between the leader and a follower, either way, and between followers."""
    async with loaded(world, 8) as load:
        for from_leader in (True, False, None):
            leader = await world.leader()
            one, other = world.others(leader)
            deaf, mute = {True: (one, leader), False: (leader, one), None: (one, other)}[
                from_leader
            ]
            before = await world.term()
            world.network.deafen(deaf, mute)
            await asyncio.sleep(5.0)
            assert await world.term() - before <= 3
            world.network.heal()
            assert await load.progress() <= 3.0


async def test_each_sees_only_a_neighbour_and_it_goes_on_when_healed_co_09(world: World) -> None:
    """The leader in the middle of the chain, then at its end."""
    async with loaded(world, 9) as load:
        for in_the_middle in (True, False):
            leader = await world.leader()
            one, other = world.others(leader)
            world.network.cut(one, other if in_the_middle else leader)
            await asyncio.sleep(4.0)
            world.network.heal()
            assert await load.progress() <= 5.0


async def test_a_slow_disk_makes_no_elections_and_a_slow_leader_hands_over_co_30(
    world: World, totals: Totals
) -> None:
    async with loaded(world, 30) as load:
        follower = world.others(await world.leader())[0]
        before = await world.term()
        world.shims[follower].set("sync_delay_us", SLOW_SYNC_US)
        await asyncio.sleep(4.0)
        assert await world.term() - before <= BY_ITSELF, "a slow follower disturbs nobody"
        world.shims[follower].clear()
        slow = await world.leader()
        world.shims[slow].set("sync_delay_us", SLOW_SYNC_US)
        async with asyncio.timeout(30):
            while await world.leader() == slow:
                await asyncio.sleep(0.1)
        assert await world.term() - before <= 1 + BY_ITSELF, "handed over, not fought for"
        started = time.monotonic()
        await load.progress()
        totals(
            "a write while one disk takes 500 ms for a sync",
            milliseconds=round((time.monotonic() - started) * 1000),
        )


async def test_wall_clocks_jump_and_nobody_loses_the_lead_co_31(world: World) -> None:
    async with loaded(world, 31) as load:
        before, leader = await world.term(), await world.leader()
        for name in (leader, world.others(leader)[0]):
            for jump in JUMPS:
                world.shims[name].set("clock_offset_s", jump)
                await load.progress()
                await asyncio.sleep(1.0)
                await load.progress()
                world.shims[name].clear()
        assert await world.term() - before <= BY_ITSELF
