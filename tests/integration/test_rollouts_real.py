"""Rollouts of real processes on three masters: what is healthy is not touched, whoever leads."""

import asyncio
from typing import Any

from integration.conftest import PATIENT_SECONDS, RealCluster, running

SLEEP = "exec sleep 1000"


def a_service(version: str, **deploy: Any) -> dict[str, Any]:
    command = ["sh", "-c", SLEEP if version != "bad" else "exit 7"]
    env = {"VERSION": version}
    return {"name": "web", "command": command, "env": env, "replicas": 4, "deploy": deploy}


async def identities(cluster: RealCluster, revision: int) -> set[tuple[str, float]]:
    """Ids and start times of the replicas of a revision that run."""
    tasks = (await cluster.service("web"))["tasks"]
    return {
        (task["id"], task["started_at"])
        for task in tasks
        if task["revision"] == revision and task["state"] == "running"
    }


async def test_rollouts_go_on_under_another_leader_and_touch_nothing_healthy_co_18(
    tmp_path_factory: Any,
) -> None:
    folder = tmp_path_factory.mktemp("rollouts")
    async with (
        running(folder / "orca", "process", 2, masters=3) as cluster,
        cluster.client() as client,
    ):
        assert (await client.deploy([a_service("one")]))["errors"] == []
        stable = await identities(cluster, 1)
        assert len(stable) == 4
        await _a_bad_one_is_reverted(cluster, client, stable)
        await _a_canary_survives_the_leader(cluster, client, stable)


async def _a_bad_one_is_reverted(cluster: RealCluster, client: Any, stable: Any) -> None:
    answer = await client.deploy([a_service("bad")])
    (outcome,) = answer["outcomes"]
    assert outcome["state"] == "reverted"
    assert "exited with code 7 (try 3 of 3); revision 1 is what runs" in outcome["reason"]
    await cluster.until("web", status="running", revision=1)
    assert await identities(cluster, 1) == stable


async def _a_canary_survives_the_leader(cluster: RealCluster, client: Any, stable: Any) -> None:
    answer = await client.deploy([a_service("two", strategy="canary")])
    assert answer["outcomes"][0]["state"] == "paused"
    leader = await cluster.leader()
    rolling_back = asyncio.create_task(client.rollback("web"))
    await cluster.kill(leader)
    await rolling_back
    await cluster.until("web", status="running", revision=1)
    assert await identities(cluster, 1) == stable
    await cluster.up()

    await client.deploy([a_service("two", strategy="canary")])
    (canary,) = {id for id, _ in await identities(cluster, 4)}
    leader = await cluster.leader()
    promoting = asyncio.create_task(client.promote("web"))
    await cluster.kill(leader)
    await promoting
    await cluster.until("web", seconds=4 * PATIENT_SECONDS, status="running", stable_revision=4)
    assert canary in {id for id, _ in await identities(cluster, 4)}
    await cluster.up()
