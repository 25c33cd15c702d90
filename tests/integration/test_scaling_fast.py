"""A service is scaled up and down faster than it can follow."""

import asyncio

import psutil

from integration.conftest import RealCluster

COMMAND = ["sleep", "7651616"]


def processes() -> int:
    found = psutil.process_iter(["cmdline"])
    return sum(process.info["cmdline"] == COMMAND for process in found)


async def test_scaling_5_50_3_20_within_a_second_ends_at_20_and_leaves_no_orphan_co_16(
    two_workers: RealCluster,
) -> None:
    cluster = two_workers
    async with cluster.client() as client:
        answer = await client.deploy([{"name": "web", "command": COMMAND, "replicas": 5}])
        assert answer["errors"] == []
        for replicas in (50, 3, 20):
            await client.scale("web", replicas)
    await cluster.until("web", seconds=120.0, running_replicas=20, status="running")
    folders = [cluster.folder / name / "tasks" for name in ("worker-1", "worker-2")]

    def left() -> list[str]:
        return [each.name for folder in folders for each in folder.glob("*/task.json")]

    async with asyncio.timeout(120):
        while processes() != 20 or len(left()) != 20:
            await asyncio.sleep(0.1)
    shown = await cluster.service("web")
    assert sorted(task["replica"] for task in shown["tasks"]) == list(range(1, 21))
    assert {task["revision"] for task in shown["tasks"]} == {1}
