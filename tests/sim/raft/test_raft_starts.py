"""Starts on folders that somebody or something has been at: refused, or the right state, never another."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import pytest

from orca_master.state.log import DamagedLog, FolderInUse
from sim.disk import Image, SimDisk
from sim.raft.node import FOLDER, SimNode
from sim.raft.test_raft_faults import Three, store_of, three, write
from sim.virtual_time import run_virtual


async def a_life(cluster: Three) -> SimNode:
    """Enough writes for several snapshots; the disk of one follower, stopped, with all of them."""
    follower = (await cluster.others())[0]
    for value in range(150):
        await store_of(await cluster.leader()).update(write(value, f"r{value % 7}"))
    await asyncio.sleep(1)
    await cluster.agree()
    await follower.stop(power_loss=False)
    return follower


def in_a_cluster(test: Callable[[Three, SimNode], Awaitable[None]]) -> Callable[[], None]:
    async def run() -> None:
        async with three(segment_bytes=1500) as cluster:
            await test(cluster, await a_life(cluster))

    def start() -> None:
        run_virtual(run())

    start.__name__ = test.__name__
    start.__doc__ = test.__doc__
    return start


def snapshots_on(disk: SimDisk) -> list[str]:
    return sorted(path for path in disk.image() if path.endswith(".snapshot"))


def with_image(node: SimNode, image: Image) -> None:
    node.disk._become(image)


@in_a_cluster
async def test_a_damaged_newest_snapshot_is_set_aside_and_the_log_goes_on_from_the_older(
    cluster: Three, node: SimNode
) -> None:
    older, newest = snapshots_on(node.disk)
    node.disk.flip(newest, byte=60, bit=3)
    await node.start()
    assert f"{newest}.damaged" in node.disk.image()
    assert older in node.disk.image()
    await asyncio.sleep(1)
    await cluster.agree()


@in_a_cluster
async def test_with_no_whole_snapshot_it_refuses_to_start(cluster: Three, node: SimNode) -> None:
    for path in snapshots_on(node.disk):
        node.disk.flip(path, byte=60, bit=3)
    with pytest.raises(DamagedLog, match="No older snapshot is whole"):
        await node.start()


@in_a_cluster
async def test_a_log_that_lost_its_files_is_not_started_on(cluster: Three, node: SimNode) -> None:
    """It would have forgotten whom it voted for and what it acknowledged."""
    image = node.disk.image()
    logs = sorted(path for path in image if path.endswith(".log"))
    assert len(logs) > 2
    # The first may be missing: the newest snapshot holds what was in it. All, or one of them, not.
    for lost in (logs, logs[1:2]):
        with_image(node, {p: raw for p, raw in image.items() if p not in lost})
        with pytest.raises(DamagedLog):
            await node.start()
        node.disk.kill()


@in_a_cluster
async def test_a_folder_without_its_identity_is_not_taken_for_a_new_one(
    cluster: Three, node: SimNode
) -> None:
    image = node.disk.image()
    with_image(node, {p: raw for p, raw in image.items() if p != f"{FOLDER}/identity"})
    with pytest.raises(DamagedLog, match="identity"):
        await node.start()


@in_a_cluster
async def test_a_rotten_bit_is_refused_or_harmless(cluster: Three, node: SimNode) -> None:
    """A snapshot that it starts from is the one that was written, or an older one of those."""
    image = node.disk.image()
    restored: list[list[tuple[str, tuple[str, ...], bytes]]] = []
    node.on_state = lambda _, state, entry: restored.append(sorted(state.raw_rows()))
    whole: list[list[tuple[str, tuple[str, ...], bytes]]] = []
    for kept in snapshots_on(node.disk):
        with_image(node, {p: r for p, r in image.items() if p == kept or ".snapshot" not in p})
        await node.start()
        whole.append(restored.pop())
        await node.stop(power_loss=False)
    refused = started = 0
    for path, raw in image.items():
        for byte, bit in itertools.product(range(0, len(raw), 61), (1, 6)):
            with_image(node, image)
            node.disk.flip(path, byte=byte, bit=bit)
            restored.clear()
            try:
                await node.start()
            except (DamagedLog, FolderInUse):
                refused += 1
            else:
                started += 1
                assert restored[0] in whole
            await node.stop(power_loss=False)
    assert refused > 20
    assert started > 5
