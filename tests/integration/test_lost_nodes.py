"""Real workers that die and return, and a master that stands still for longer than a node may."""

import asyncio
import contextlib
import signal
from pathlib import Path

import psutil

from integration.conftest import RealCluster, running
from integration.test_drain import orca

COMMAND = ["sleep", "7654389"]
REPLICAS = 6


async def test_a_node_is_lost_and_returns_and_the_wanted_number_runs_co_20(tmp_path: Path) -> None:
    """Its worker and what runs on it are killed, with the default TTL."""
    async with running(tmp_path / "orca", "process", 3, down_after=3.0) as cluster:
        async with cluster.client() as client:
            service = {"name": "web", "command": COMMAND, "replicas": REPLICAS}
            assert (await client.deploy([service]))["errors"] == []
        lost = {t["id"] for t in await tasks(cluster) if t["node"] == "worker-1"}
        assert lost
        await cluster.kill("worker-1")
        kill_replicas(cluster.folder / "worker-1")
        async with asyncio.timeout(60):
            while len(await healthy_elsewhere(cluster)) != REPLICAS:
                await asyncio.sleep(0.05)
        assert not lost & await healthy_elsewhere(cluster)
        code, said = await orca(cluster, "nodes")
        assert (code, "not heard of for 3 s (since 2" in said) == (0, True), said
        await cluster.up()
        async with asyncio.timeout(90):
            while not await has_settled(cluster):
                await asyncio.sleep(0.1)


async def test_a_master_that_stood_still_gives_nobody_up(tmp_path: Path) -> None:
    async with running(tmp_path / "orca", "process", 2, down_after=8.0) as cluster:
        async with cluster.client() as client:
            service = {"name": "web", "command": COMMAND, "replicas": REPLICAS}
            assert (await client.deploy([service]))["errors"] == []
            before = {t["id"] for t in await tasks(cluster)}
            assert await orca(cluster, "nodes", "evict") == (0, "no nodes are missing\n")
            assert await orca(cluster, "nodes", "evict", "--confirm") == (0, "no nodes are held\n")
            cluster.signal("master-1", signal.SIGSTOP)
            try:
                await asyncio.sleep(10.0)
            finally:
                cluster.signal("master-1", signal.SIGCONT)
            async with asyncio.timeout(60):
                while await states(cluster) != ["ready"] * 2:
                    await asyncio.sleep(0.1)
        said = Path(cluster.processes["master-1"].log).read_text()
        assert "this master was away" in said
        assert "node is down" not in said
        assert {t["id"] for t in await tasks(cluster)} == before


async def tasks(cluster: RealCluster) -> list[dict[str, object]]:
    found: list[dict[str, object]] = (await cluster.service("web"))["tasks"]
    return found


async def healthy_elsewhere(cluster: RealCluster) -> set[object]:
    return {t["id"] for t in await tasks(cluster) if t["healthy"] and t["node"] != "worker-1"}


async def states(cluster: RealCluster) -> list[str]:
    async with cluster.client() as client:
        return [n["state"] for n in (await client.cluster_info())["nodes"] if n["connected"]]


async def has_settled(cluster: RealCluster) -> bool:
    """All nodes are back, and as many replicas run as are wanted: by the status, and in truth."""
    shown = await tasks(cluster)
    if await states(cluster) != ["ready"] * 3 or not all(t["healthy"] for t in shown):
        return False
    return len(shown) == REPLICAS == len(replicas(cluster.folder))


def replicas(folder: Path) -> list[psutil.Process]:
    """The programs themselves: children of the shims of tasks in this folder."""
    found = []
    for shim in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(str(folder) in part for part in shim.cmdline()):
                found += [c for c in shim.children(recursive=True) if c.cmdline() == COMMAND]
    return list({process.pid: process for process in found}.values())


def kill_replicas(folder: Path) -> None:
    killed = replicas(folder)
    assert killed
    for process in killed:
        process.kill()
