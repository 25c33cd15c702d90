"""A node is drained: its work goes elsewhere first, and it stays drained."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from integration.conftest import RealCluster, running
from orca.errors import OrcaError

SERVICES = [
    {"name": name, "command": ["sleep", "7654324"], "replicas": replicas}
    for name, replicas in (("a", 4), ("b", 3), ("c", 3))
]
WANTED = {"a": 4, "b": 3, "c": 3}


@pytest.fixture
async def three_nodes(tmp_path: Path) -> AsyncIterator[RealCluster]:
    async with running(tmp_path / "orca", "process", 3) as cluster:
        async with asyncio.timeout(60), cluster.client() as client:
            while [n["state"] for n in (await client.cluster_info())["nodes"]] != ["ready"] * 3:
                await asyncio.sleep(0.1)
            answer = await client.deploy(SERVICES)
            assert answer["errors"] == []
        yield cluster


async def node(cluster: RealCluster, name: str) -> dict[str, Any]:
    async with cluster.client() as client:
        nodes = (await client.cluster_info())["nodes"]
    return next(node for node in nodes if node["name"] == name)


async def drained(cluster: RealCluster, name: str) -> None:
    async with asyncio.timeout(60):
        while (found := await node(cluster, name))["tasks"]:
            await asyncio.sleep(0.05)
    assert found["schedulable"] is False


async def orca(cluster: RealCluster, *words: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(Path(sys.executable).with_name("orca"), *words),
        env={**os.environ, "ORCA_API": cluster.api, "ORCA_TOKEN": cluster.token},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_no_service_ever_has_less_than_it_had(three_nodes: RealCluster) -> None:
    cluster, seen = three_nodes, 0
    before = (await node(cluster, "worker-2"))["tasks"]
    assert before > 0

    async def watch() -> None:
        nonlocal seen
        async with cluster.client() as client:
            while True:
                for service in await client.status():
                    assert service["running_replicas"] >= WANTED[service["name"]], service
                seen += 1

    watching = asyncio.ensure_future(watch())
    code, said = await orca(cluster, "nodes", "drain", "worker-2", "--wait", "--timeout", "60s")
    assert code == 0, said
    assert said.splitlines()[0] == f"worker-2: draining ({before} left)"
    assert said.splitlines()[-1] == "worker-2: drained"
    assert not watching.done(), watching.exception()
    watching.cancel()
    assert seen > 3
    for service in SERVICES:
        found = await cluster.service(service["name"])
        assert {i["node"] for i in found["tasks"]} <= {"worker-1", "worker-3"}


async def test_it_lasts_over_kills_of_master_and_worker(three_nodes: RealCluster) -> None:
    cluster = three_nodes
    async with cluster.client() as client:
        await client.drain("worker-1")
    await cluster.kill("master-1", "worker-1")
    await cluster.up()
    await drained(cluster, "worker-1")
    async with cluster.client() as client:
        await client.scale("a", 9)
    found = await cluster.until("a", running_replicas=9)
    assert "worker-1" not in {i["node"] for i in found["tasks"]}
    async with cluster.client() as client:
        answer = await client.undrain("worker-1")
        assert (answer["status"], answer["node"]["schedulable"]) == ("undrained", True)
        await client.scale("a", 15)
    found = await cluster.until("a", running_replicas=15)
    assert "worker-1" in {i["node"] for i in found["tasks"]}


async def test_it_goes_on_when_the_leader_is_killed_in_the_middle(tmp_path: Path) -> None:
    async with running(tmp_path / "orca", "process", 2, masters=3) as cluster:
        async with cluster.client() as client:
            assert (await client.deploy(SERVICES))["errors"] == []
        before = (await node(cluster, "worker-1"))["tasks"]
        least = dict(WANTED)

        async def watch() -> None:
            async with cluster.client() as client:
                while True:
                    with contextlib.suppress(OrcaError):
                        for service in await client.status():
                            name, ready = service["name"], service["running_replicas"]
                            least[name] = min(least[name], ready)
                    await asyncio.sleep(0.02)

        watching = asyncio.ensure_future(watch())
        try:
            leader = await cluster.leader()
            async with cluster.client() as client:
                await client.drain("worker-1")
                async with asyncio.timeout(60):
                    while (await node(cluster, "worker-1"))["tasks"] == before:
                        await asyncio.sleep(0.01)
            await cluster.kill(leader)
            async with asyncio.timeout(120):
                while True:
                    with contextlib.suppress(OrcaError):
                        if not (await node(cluster, "worker-1"))["tasks"]:
                            break
                    await asyncio.sleep(0.05)
        finally:
            watching.cancel()
        assert least == WANTED
        for name, count in WANTED.items():
            found = await cluster.until(name, running_replicas=count)
            assert {task["node"] for task in found["tasks"]} == {"worker-2"}


async def test_what_is_pinned_is_stopped_at_the_deadline(three_nodes: RealCluster) -> None:
    cluster = three_nodes
    pinned = {"name": "pinned", "command": ["sleep", "7654325"], "placement": {"node": "worker-2"}}
    async with cluster.client() as client:
        assert (await client.deploy([pinned]))["errors"] == []
    code, said = await orca(cluster, "nodes", "drain", "worker-2", "--wait", "--timeout", "5s")
    assert code == 1
    assert "  pinned, replica 1: node worker-2: is drained" in said.splitlines()
    code, said = await orca(cluster, "nodes", "drain", "worker-2", "--deadline", "1s", "--wait")
    assert (code, said.splitlines()[-1]) == (0, "worker-2: drained")


async def test_a_removed_node_stops_what_it_runs_and_ends(three_nodes: RealCluster) -> None:
    cluster = three_nodes
    code, said = await orca(cluster, "nodes", "label", "worker-2", "disk=ssd", "zone=a")
    assert (code, said) == (0, "worker-2: disk=ssd, zone=a\n")
    code, said = await orca(cluster, "nodes", "rm", "worker-2")
    assert code == 1
    assert "bring them away first (`orca nodes drain worker-2 --wait`)" in said
    worker = cluster.processes["worker-2"]
    code, said = await orca(cluster, "nodes", "rm", "worker-2", "--force")
    assert (code, said) == (0, "removed node worker-2\n")
    async with asyncio.timeout(60):
        while worker.is_alive():
            await asyncio.sleep(0.05)
    log = (cluster.folder / "worker-2.log").read_text()
    assert "error: this node was removed from the cluster" in log.splitlines()[-1]
    for name, count in WANTED.items():
        await cluster.until(name, running_replicas=count)
    assert running_in(cluster.folder / "worker-2") == []
    assert len(running_in(cluster.folder)) == sum(WANTED.values())


def running_in(folder: Path) -> list[int]:
    """The replicas of these tests' services whose workers keep them in this folder, by pid."""
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            is_ours = (process / "cmdline").read_bytes().startswith(b"sleep\x007654324")
            if is_ours and (process / "cwd").readlink().is_relative_to(folder):
                found.append(int(process.name))
    return found


async def test_the_last_node_keeps_what_can_go_nowhere_and_says_why(
    three_nodes: RealCluster,
) -> None:
    cluster = three_nodes
    async with cluster.client() as client:
        for name in ("worker-1", "worker-2", "worker-3"):
            await client.drain(name)
    code, said = await orca(cluster, "nodes", "drain", "worker-3", "--wait", "--timeout", "3s")
    assert code == 1
    assert "left after 3 s" in said
    async with cluster.client() as client:
        for service in await client.status():
            assert service["running_replicas"] == WANTED[service["name"]]
            reasons = {i["reason"] for i in service["tasks"] if i["reason"]}
            assert reasons == {"no node fits (3 nodes: is drained)"}, service
        await client.undrain("worker-1")
    await drained(cluster, "worker-3")


async def test_a_drain_during_a_deploy_co_15(three_nodes: RealCluster) -> None:
    cluster = three_nodes
    changed = [service | {"env": {"A": "b"}} for service in SERVICES]
    async with cluster.client() as client, asyncio.TaskGroup() as group:
        deploying = group.create_task(client.deploy(changed))
        await asyncio.sleep(0.2)
        await client.drain("worker-3")
    assert deploying.result()["errors"] == []
    await drained(cluster, "worker-3")
    for service in SERVICES:
        found = await cluster.service(service["name"])
        assert found["running_replicas"] == WANTED[service["name"]]
        assert "worker-3" not in {i["node"] for i in found["tasks"]}
