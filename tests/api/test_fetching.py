"""Where old replicas stop first, nothing is touched until their nodes have the new image."""

from typing import Any

import pytest

from inprocess import InProcess, eventually
from orca_master.services.fetching import fetcher_of
from orca_master.tasks.model import TASKS

OWNER = "service:default/default/web"
SAID = "first its image is fetched where replicas run"


def a_web(image: str, **deploy: Any) -> dict[str, Any]:
    deploy = {"order": "stop-first"} | deploy
    return {"name": "web", "image": image, "replicas": 2, "deploy": deploy}


async def said(cluster: InProcess) -> list[str]:
    answer = await cluster.call("GET", "/api/v1/services/web/deployments")
    return [sentence["text"] for sentence in answer.json["deployments"][0]["said"]]


async def replicas(cluster: InProcess) -> dict[str, float]:
    return {t["id"]: t["started_at"] for t in (await cluster.status("web"))["tasks"]}


def fetchers(cluster: InProcess) -> int:
    return len(cluster.core.store.state.find(TASKS, "owner", fetcher_of(OWNER)))


@pytest.mark.parametrize("deploy", [{}, {"strategy": "recreate"}], ids=["stop-first", "recreate"])
async def test_replicas_stop_only_when_the_image_is_there(
    cluster: InProcess, deploy: dict[str, Any]
) -> None:
    await cluster.deploy(a_web("app:1", **deploy))
    before = await replicas(cluster)
    cluster.worker.machine.images.discard("app:2")
    cluster.worker.runtime.pull_seconds = 1.0
    await cluster.deploy(a_web("app:2", **deploy), wait="false")
    await eventually(lambda: fetchers(cluster) == 1)
    assert await replicas(cluster) == before
    shown = await cluster.until("web", status="running", stable_revision=2)
    assert not before.keys() & {task["id"] for task in shown["tasks"]}
    texts = await said(cluster)
    begins = texts.index("its image is on 1 nodes: it begins")
    assert texts.index(SAID) < begins < len(texts) - 1
    history = [
        (verb, what)
        for _, verb, what in cluster.worker.runtime.history
        if verb in ("prepare", "stop")
    ]
    last_stop_of_old = max(history.index(("stop", id)) for id in before)
    assert history.index(("prepare", "app:2")) < last_stop_of_old
    await eventually(lambda: fetchers(cluster) == 0)


async def test_an_image_that_cannot_be_had_costs_nobody_anything(cluster: InProcess) -> None:
    await cluster.deploy(a_web("app:1"))
    before = await replicas(cluster)
    answer = await cluster.deploy(a_web("broken:1"))
    assert answer.json["outcomes"][0]["state"] == "reverted"
    reason = answer.json["outcomes"][0]["reason"]
    assert reason.startswith(f"its image cannot be had on node {cluster.worker.name}: ")
    assert "manifest unknown" in reason
    assert "(try 3 of 3); revision 1 is what runs" in reason
    assert await replicas(cluster) == before
    await eventually(lambda: fetchers(cluster) == 0)


async def test_a_paused_one_is_tried_again_when_it_is_resumed(cluster: InProcess) -> None:
    await cluster.deploy(a_web("app:1"))
    before = await replicas(cluster)
    answer = await cluster.deploy(a_web("broken:1", on_failure="pause"))
    assert answer.json["outcomes"][0]["state"] == "paused"
    assert await replicas(cluster) == before
    await eventually(lambda: fetchers(cluster) == 0)
    del cluster.worker.machine.registry["broken:1"]
    assert (await cluster.call("POST", "/api/v1/services/web/resume")).status == 200
    await cluster.until("web", status="running", stable_revision=2)


async def test_a_newer_deploy_needs_the_image_of_the_older_no_more(cluster: InProcess) -> None:
    await cluster.deploy(a_web("app:1"))
    cluster.worker.machine.images.discard("app:2")
    cluster.worker.runtime.pull_seconds = 600.0
    await cluster.deploy(a_web("app:2"), wait="false")
    await eventually(lambda: fetchers(cluster) == 1)
    await cluster.deploy(a_web("app:3"))
    await cluster.until("web", status="running", stable_revision=3)
    await eventually(lambda: fetchers(cluster) == 0)


async def test_a_service_that_is_purged_leaves_no_fetcher(cluster: InProcess) -> None:
    await cluster.deploy(a_web("app:1"))
    cluster.worker.machine.images.discard("app:2")
    cluster.worker.runtime.pull_seconds = 600.0
    await cluster.deploy(a_web("app:2"), wait="false")
    await eventually(lambda: fetchers(cluster) == 1)
    await cluster.call("DELETE", "/api/v1/services/web?purge=true")
    await eventually(lambda: not list(cluster.core.store.state.scan(TASKS)))


async def test_where_both_stand_side_by_side_nothing_is_fetched_before(cluster: InProcess) -> None:
    await cluster.deploy(a_web("app:1", order="start-first"))
    await cluster.deploy(a_web("app:2", order="start-first"))
    assert SAID not in await said(cluster)
    await cluster.deploy(a_web("app:2", order="stop-first") | {"env": {"A": "1"}})
    assert SAID not in await said(cluster)
