"""The embedded default, where no engine runs: services with a command, and their daemons' deaths."""

import asyncio
import sys
from typing import Any

import aiohttp
import psutil

from integration.conftest import RealCluster
from orca.errors import OrcaError

SERVE = (
    "import http.server, os;"
    "http.server.test(http.server.SimpleHTTPRequestHandler, port=int(os.environ['PORT']),"
    " bind='127.0.0.1')"
)


def a_server(replicas: int = 1) -> dict[str, Any]:
    return {
        "name": "web",
        "command": [sys.executable, "-c", SERVE],
        "port": 8080,
        "health": "/",
        "replicas": replicas,
    }


async def test_a_service_answers_http_and_survives_kill_9_of_both_daemons(
    process_cluster: RealCluster,
) -> None:
    cluster = process_cluster
    async with cluster.client() as client:
        assert (await client.deploy([a_server(2)]))["deployed"] == ["web"]
    before = {t["id"]: t["address"] for t in (await cluster.service("web"))["tasks"]}
    await cluster.kill("master-1", "worker-1")
    await _all_answer(before.values())
    await cluster.up()
    await cluster.until("web", status="running", running_replicas=2)
    after = {t["id"]: t["address"] for t in (await cluster.service("web"))["tasks"]}
    assert after == before
    await _all_answer(after.values())


async def _all_answer(addresses: Any) -> None:
    async with aiohttp.ClientSession() as http:
        for address in addresses:
            async with http.get(f"http://{address}/") as response:
                assert response.status == 200


async def test_down_stops_everything_and_up_brings_it_back(process_cluster: RealCluster) -> None:
    cluster = process_cluster
    async with cluster.client() as client:
        await client.deploy([a_server()])
    await cluster.down()
    left = [p.pid for p in psutil.process_iter(["cmdline"]) if _belongs(p, cluster)]
    assert left == []
    await cluster.up()
    shown = await cluster.until("web", status="running")
    await _all_answer([shown["tasks"][0]["address"]])


def _belongs(process: psutil.Process, cluster: RealCluster) -> bool:
    return any(str(cluster.folder) in part for part in process.info["cmdline"] or [])


async def test_a_command_that_does_not_exist_is_named(process_cluster: RealCluster) -> None:
    async with process_cluster.client() as client:
        answer = await client.deploy([{"name": "nope", "command": ["no-such-program"]}])
    assert answer["deployed"] == []
    assert answer["errors"] == ["nope: command not found: no-such-program"]


async def test_an_image_without_an_engine_says_what_is_missing(
    process_cluster: RealCluster,
) -> None:
    async with process_cluster.client() as client:
        answer = await client.deploy([{"name": "web", "image": "app:1"}])
    assert answer["errors"] == ["web: no node fits (1 node: has no container engine)"]


async def test_a_check_that_fails_keeps_the_deploy_open_and_says_why(
    process_cluster: RealCluster,
) -> None:
    service = a_server() | {"command": ["sleep", "1000"]}
    async with process_cluster.client() as client:
        answer = await client.deploy([service], timeout=1.0)
    (error,) = answer["errors"]
    assert error.startswith("web: still in progress after 1 s")
    assert "has not passed its health check yet" in error
    shown = await process_cluster.service("web")
    assert shown["status"] == "pending"
    assert shown["reason"] == "replica 1: readiness check http /: nothing listens on its port"


async def test_acknowledged_deploys_survive_kill_9_of_the_master_at_random_moments(
    process_cluster: RealCluster,
) -> None:
    """A stream of deploys, the master killed in it six times; every 2xx must be there at the end."""
    cluster = process_cluster
    acknowledged: dict[str, int] = {}
    stop = asyncio.Event()

    async def deploys() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            name = f"svc-{number % 7}"
            service = {"name": name, "command": ["true", str(number)], "replicas": 0}
            try:
                async with cluster.client() as client:
                    await client.deploy([service], wait=False)
                acknowledged[name] = number
            except OrcaError:
                await asyncio.sleep(0.02)

    async with asyncio.TaskGroup() as group:
        group.create_task(deploys())
        for _ in range(6):
            await asyncio.sleep(0.3)
            await cluster.kill("master-1")
            await cluster.up()
        stop.set()
    assert len(acknowledged) == 7
    async with cluster.client() as client:
        known = {service["name"]: service for service in await client.status()}
    for name, number in acknowledged.items():
        kept = int(known[name]["command"][1])
        assert kept >= number, "what was not acknowledged may be there too, but nothing is lost"


async def test_many_readers_share_one_stream_with_reports_and_heartbeats(
    process_cluster: RealCluster,
) -> None:
    command = ["sh", "-c", "seq 1 2000; sleep 1000"]
    async with process_cluster.client() as client:
        await client.deploy([{"name": "talk", "command": command, "replicas": 3}])

        async def lines() -> int:
            return b"".join([c async for c in client.logs("talk", tail=2000)]).count(b"\n")

        async with asyncio.timeout(60):
            while await lines() < 6000:
                await asyncio.sleep(0.05)
            counts = await asyncio.gather(*(lines() for _ in range(4)))
        await client.scale("talk", 6)
    assert counts == [6000] * 4
    await process_cluster.until("talk", running_replicas=6)


async def test_what_ran_on_a_node_that_died_runs_elsewhere_and_its_return_brings_no_second(
    two_workers: RealCluster,
) -> None:
    cluster = two_workers
    async with cluster.client() as client:
        await client.deploy([a_server(4)])
    tasks = (await cluster.service("web"))["tasks"]
    assert {task["node"] for task in tasks} == {"worker-1", "worker-2"}
    kept = {task["id"] for task in tasks if task["node"] == "worker-2"}
    await cluster.kill("worker-1")
    async with asyncio.timeout(60):
        while await _healthy_nodes(cluster) != ["worker-2"] * 4:
            await asyncio.sleep(0.1)
    await cluster.up()
    async with asyncio.timeout(60):
        while len(tasks := (await cluster.service("web"))["tasks"]) != 4:
            await asyncio.sleep(0.1)
    assert {task["node"] for task in tasks} == {"worker-2"}
    assert kept < {task["id"] for task in tasks}


async def _healthy_nodes(cluster: RealCluster) -> list[str]:
    return [task["node"] for task in (await cluster.service("web"))["tasks"] if task["healthy"]]
