"""The kinds of real faults. Each breaks something, lets it be for a while, and leaves it to be healed."""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

from chaos.world import NAMES, World

Fault = Callable[[World], Awaitable[None]]

LONGEST_SECONDS = 2.5
HOUR = 3600
JUMPS = (HOUR, -HOUR, 10 * 365 * 24 * HOUR)


async def _pass(world: World, longest: float = LONGEST_SECONDS) -> None:
    await asyncio.sleep(world.chance.uniform(0.2, longest))


async def _one(world: World) -> str:
    """The leader more often than not."""
    return await world.leader() if world.chance.random() < 0.6 else world.chance.choice(NAMES)


async def _follower(world: World) -> str:
    return world.chance.choice(world.others(await world.leader()))


async def kill_the_leader(world: World) -> None:
    world.masters[await world.leader()].kill()
    await _pass(world)


async def kill_a_follower(world: World) -> None:
    world.masters[await _follower(world)].kill()
    await _pass(world)


async def kill_all(world: World) -> None:
    for master in world.masters.values():
        master.kill()


async def stop_in_order(world: World) -> None:
    master = world.masters[await _one(world)]
    master.signal(signal.SIGTERM)
    await master.ended()


async def pause_the_leader(world: World) -> None:
    world.masters[await world.leader()].signal(signal.SIGSTOP)
    await _pass(world, 4.0)


async def pause_a_follower(world: World) -> None:
    world.masters[await _follower(world)].signal(signal.SIGSTOP)
    await _pass(world)


async def pause_all(world: World) -> None:
    for master in world.masters.values():
        master.signal(signal.SIGSTOP)
    await _pass(world)


async def isolate_the_leader(world: World) -> None:
    world.network.isolate(await world.leader())
    await _pass(world, 4.0)


async def isolate_a_follower(world: World) -> None:
    world.network.isolate(await _follower(world))
    await _pass(world)


async def cut_all_from_all(world: World) -> None:
    for name in NAMES[:2]:
        world.network.isolate(name)
    await _pass(world)


async def cut_one_link(world: World) -> None:
    """Each still sees a neighbour: the ring, opened."""
    world.network.cut(*world.chance.sample(NAMES, 2))
    await _pass(world, 4.0)


async def deafen_one(world: World) -> None:
    deaf = await _one(world)
    for other in world.others(deaf):
        world.network.deafen(deaf, other)
    await _pass(world, 4.0)


async def silence_one(world: World) -> None:
    mute = await _one(world)
    for other in world.others(mute):
        world.network.deafen(other, mute)
    await _pass(world, 4.0)


async def lose_packets(world: World) -> None:
    for name in NAMES:
        world.network.lose(name, world.chance.uniform(0.02, 0.25))
    await _pass(world)


async def slow_a_link(world: World) -> None:
    world.network.slow(await _one(world), world.chance.choice((64, 256, 1000)))
    await _pass(world)


async def unplug_one(world: World) -> None:
    world.network.unplug(await _one(world))
    await _pass(world)


async def reset_connections(world: World) -> None:
    name = await _one(world)
    for _ in range(3):
        world.network.reset(name)
        await asyncio.sleep(world.chance.uniform(0.02, 0.2))
        world.network.heal()
        await asyncio.sleep(world.chance.uniform(0.02, 0.3))


async def jump_the_clock(world: World) -> None:
    world.shims[await _one(world)].set("clock_offset_s", world.chance.choice(JUMPS))
    await _pass(world)


async def slow_a_disk(world: World) -> None:
    world.shims[await _one(world)].set("sync_delay_us", world.chance.choice((20_000, 500_000)))
    await _pass(world, 4.0)


async def fail_a_sync(world: World) -> None:
    """The master must end, and is started again on what it has."""
    name = await _one(world)
    world.shims[name].set("fail_syncs", 1)
    await world.masters[name].ended()


async def fill_a_disk(world: World) -> None:
    _fill(world.masters[await _one(world)].data / "ballast")
    await _pass(world)


def _fill(ballast: Path) -> None:
    with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))


ALL: tuple[Fault, ...] = (
    kill_the_leader,
    kill_a_follower,
    kill_all,
    stop_in_order,
    pause_the_leader,
    pause_a_follower,
    pause_all,
    isolate_the_leader,
    isolate_a_follower,
    cut_all_from_all,
    cut_one_link,
    deafen_one,
    silence_one,
    lose_packets,
    slow_a_link,
    unplug_one,
    reset_connections,
    jump_the_clock,
    slow_a_disk,
    fail_a_sync,
    fill_a_disk,
)
