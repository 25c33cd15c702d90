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


async def test_on_failure_continue_goes_on_without_the_image_and_keeps_what_must_not_be_missing(
    cluster: InProcess,
) -> None:
    await cluster.deploy(a_web("app:1"))
    before = await replicas(cluster)
    going_on = a_web("broken:1", on_failure="continue", max_parallel=1)
    await cluster.deploy(going_on, wait="false")
    ends = "going on, as on_failure says"
    async with cluster.waiting():
        while not any(text.endswith(ends) for text in await said(cluster)):
            pass
    why = next(text for text in await said(cluster) if text.endswith(ends))
    assert why.startswith(f"its image cannot be had on node {cluster.worker.name}: ")
    assert "(try 3 of 3)" in why
    await eventually(lambda: fetchers(cluster) == 0)
    shown = await cluster.until("web", running_replicas=1)
    assert (shown["rollout"]["state"], shown["revision"]) == ("running", 2)
    running = {t["id"] for t in shown["tasks"] if t["state"] == "running"}
    assert len(running & before.keys()) == 1
    del cluster.worker.machine.registry["broken:1"]
    await cluster.until("web", status="running", stable_revision=2)


@pytest.mark.parametrize("verb", ["promote", "pause"])
async def test_a_canary_whose_image_is_not_there_yet_touches_nothing_whatever_is_asked(
    cluster: InProcess, verb: str
) -> None:
    """Found by a simulation: it took the canary's slots at once, without the image."""
    await cluster.deploy(a_web("app:1"))
    before = await replicas(cluster)
    cluster.worker.machine.images.discard("app:2")
    cluster.worker.runtime.pull_seconds = 600.0
    steps = [{"weight": 10, "pause": True}, {"weight": 50, "pause": True}]
    canary = {"percent": 100, "steps": steps}
    await cluster.deploy(a_web("app:2", strategy="canary", canary=canary), wait="false")
    await eventually(lambda: fetchers(cluster) == 1)
    step = await cluster.call("POST", "/api/v1/services/web/promote?step=true")
    assert (step.status, "has not begun yet" in step.json["error"]) == (409, True)
    assert (await cluster.call("POST", f"/api/v1/services/web/{verb}")).status == 200
    version = cluster.core.store.state.version
    await cluster.call("POST", "/api/v1/services/web/scale", {"replicas": 3})
    await eventually(lambda: cluster.core.store.state.version > version + 1)
    assert before.keys() <= {t["id"] for t in (await cluster.status("web"))["tasks"]}
    running = [t for t in (await cluster.status("web"))["tasks"] if t["id"] in before]
    assert {t["state"] for t in running} == {"running"}
    assert (await cluster.call("POST", "/api/v1/services/web/rollback")).status == 200
    await cluster.until("web", revision=1, rollout=None)
    assert before.keys() <= (await replicas(cluster)).keys()


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
