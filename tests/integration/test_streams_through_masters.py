"""Workers' streams end at any master: what becomes of them, and of what runs, when masters are killed."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import psutil
import pytest

from integration.conftest import RealCluster, running
from orca.client import Client
from orca.errors import OrcaError
from orca_master.tasks.streams import LEADERLESS_SECONDS

MASTERS = {"master-1", "master-2", "master-3"}
TICKS = "while :; do echo tick; sleep 0.2; done"
SERVICES = [
    {"name": "ticks", "command": ["sh", "-c", TICKS, "7654327"], "replicas": 2},
    {"name": "fenced", "command": ["sleep", "7654327"], "fence": True},
]


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[RealCluster]:
    async with running(tmp_path / "orca", "process", 2, masters=3) as cluster:
        async with cluster.client() as client:
            assert (await client.deploy(SERVICES))["errors"] == []
        yield cluster


async def figures(cluster: RealCluster, master: str) -> tuple[int, int, int]:
    """(streams held, streams opened so far, Hellos asked for again)."""
    text = await metrics(cluster, master)
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines())
    names = ("streams", "streams_opened_total", "hellos_repeated_total")
    held, opened, repeated = (int(float(lines[f"orca_worker_{name}"])) for name in names)
    return held, opened, repeated


async def metrics(cluster: RealCluster, master: str) -> str:
    """Once it serves: one that was just started may not yet."""
    headers = {"Authorization": f"Bearer {cluster.token}"}
    async with asyncio.timeout(60), aiohttp.ClientSession(headers=headers) as http:
        while True:
            with contextlib.suppress(aiohttp.ClientConnectionError):
                async with http.get(f"{cluster.api_of(master)}/metrics") as answer:
                    return await answer.text()
            await asyncio.sleep(0.1)


async def leader_without_streams(cluster: RealCluster, client: Client) -> str:
    """Whichever of the three holds none of the two streams is to lead."""
    async with asyncio.timeout(120):
        while (await figures(cluster, leader := await cluster.leader()))[0]:
            idle = [name for name in MASTERS if not (await figures(cluster, name))[0]]
            with contextlib.suppress(OrcaError):
                await client.transfer(idle[0] if idle else None)
            await all_ready(client)
    return leader


async def all_ready(client: Client) -> None:
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(OrcaError):
                nodes = (await client.cluster_info())["nodes"]
                if all(node["connected"] and node["state"] == "ready" for node in nodes):
                    return
            await asyncio.sleep(0.05)


def running_pids() -> set[int]:
    """Without the shells' children, which look like them until they have become what they run."""
    found = psutil.process_iter(["name", "cmdline", "ppid"])
    ours = [p.info | {"pid": p.pid} for p in found if "7654327" in (p.info["cmdline"] or [])]
    ours = [info for info in ours if info["name"] in ("sh", "sleep")]
    return {info["pid"] for info in ours} - {
        info["pid"] for info in ours if info["ppid"] in {other["pid"] for other in ours}
    }


async def test_streams_outlive_the_leader_and_workers_the_master_that_held_theirs(
    cluster: RealCluster,
) -> None:
    async with cluster.client() as client:
        leader = await leader_without_streams(cluster, client)
        before = running_pids()
        assert len(before) == 3
        others = {name: await figures(cluster, name) for name in MASTERS - {leader}}
        assert sum(held for held, _, _ in others.values()) == 2

        logs = [line async for line in client.logs("ticks", tail=1)]
        assert b"tick" in b"".join(logs), "output comes through a relay"

        killed_at = time.monotonic()
        await cluster.kill(leader)
        assert await cluster.leader() != leader
        await all_ready(client)
        has_stood_still = time.monotonic() - killed_at > LEADERLESS_SECONDS
        for name, (held, opened, repeated) in others.items():
            now = await figures(cluster, name)
            kept = (held, opened, repeated + held)
            assert now == kept or has_stood_still, "the streams stay, and all say Hello again"
        assert running_pids() == before
        assert (await client.deploy([{"name": "after", "command": ["sleep", "9"]}]))["errors"] == []

        await cluster.up()
        await lose_a_holder(cluster, client)
        assert running_pids() == before
        await follow_and_drain(cluster, client)


async def lose_a_holder(cluster: RealCluster, client: Client) -> None:
    """A master that does not lead, and holds a stream, is killed."""
    leader = await leader_without_streams(cluster, client)
    masters = [name for name in cluster.processes if name.startswith("master-")]
    held = {name: (await figures(cluster, name))[0] for name in masters}
    holder = max(held, key=lambda name: held[name])
    assert holder != leader
    await cluster.kill(holder)
    async with asyncio.timeout(60):
        while True:
            left = [(await figures(cluster, name))[0] for name in masters if name != holder]
            if sum(left) == 2:
                break
            await asyncio.sleep(0.05)
    await all_ready(client)
    await cluster.until("fenced", running_replicas=1)
    await cluster.up()


async def follow_and_drain(cluster: RealCluster, client: Client) -> None:
    await leader_without_streams(cluster, client)
    ticks = 0
    async with asyncio.timeout(60):
        async for part in client.logs("ticks", tail=0, follow=True):
            ticks += part.count(b"tick")
            if ticks > 10:
                break
    await client.drain("worker-1")
    async with asyncio.timeout(60):
        while True:
            nodes = {n["name"]: n for n in (await client.cluster_info())["nodes"]}
            if not nodes["worker-1"]["tasks"]:
                break
            await asyncio.sleep(0.05)
    await cluster.until("ticks", running_replicas=2)
    await cluster.until("fenced", running_replicas=1)
