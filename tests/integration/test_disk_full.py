"""A task fills the disk of its node. The worker's data folder is a small tmpfs, which takes root."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from integration.conftest import RealCluster, running

FILL = "cat /dev/zero >$HOME/filling; sleep 86400"
SIZE = "16m"


async def done(words: list[str]) -> None:
    await asyncio.to_thread(subprocess.run, words, check=True)


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[RealCluster]:
    """The data folder of its worker is a tmpfs of SIZE."""
    if os.geteuid():
        assert not os.environ.get("CI"), "mounting needs root"
        pytest.skip("mounting a small disk needs root")
    mounted = []
    try:
        async with running(tmp_path / "orca", "process", 1) as cluster:
            await cluster.kill("worker-1")
            folder = cluster.folder / "worker-1"
            kept = tmp_path / "kept"
            await done(["cp", "-a", str(folder), str(kept)])
            options = ["-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs"]
            await done(["mount", *options, str(folder)])
            mounted.append(folder)
            await done(["cp", "-a", f"{kept}/.", str(folder)])
            await cluster.up()
            try:
                yield cluster
            finally:
                await cluster.down()
                await done(["umount", "--lazy", str(mounted.pop())])
    finally:
        for folder in mounted:
            await done(["umount", "--lazy", str(folder)])


async def test_a_disk_written_full_stops_what_is_new_there_and_the_node_and_the_masters_go_on_ce_22(
    small: RealCluster,
) -> None:
    cluster = small
    filler: dict[str, Any] = {"name": "filler", "command": ["sh", "-c", FILL]}
    async with cluster.client() as client, asyncio.timeout(120):
        steady = {"name": "steady", "command": ["sleep", "86400"]}
        assert (await client.deploy([steady]))["errors"] == []
        await client.deploy([filler], wait=False)
        before = {task["id"] for task in (await cluster.service("steady"))["tasks"]}
        while os.statvfs(cluster.folder / "worker-1").f_bavail:
            await asyncio.sleep(0.05)

        more = {"name": "more", "command": ["sleep", "86400"]}
        while "has a full disk" not in str((await client.cluster_info())["nodes"][0]["reason"]):
            await asyncio.sleep(0.05)
        answer = await client.deploy([more])
        assert "no node fits (1 node: has a full disk)" in str(answer["errors"])
        (node,) = (await client.cluster_info())["nodes"]
        assert node["connected"]
        assert {task["id"] for task in (await cluster.service("steady"))["tasks"]} == before

        await client.stop("filler")
        await cluster.until("more", running_replicas=1, status="running")
        await cluster.until("steady", running_replicas=1, status="running")
