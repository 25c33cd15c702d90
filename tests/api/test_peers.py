"""What others in this field get wrong with deploys, rollouts, ways back, health and secrets.

Named after promises that were not kept (PEERS 1.4) and complaints of users (PEERS 2). The page about testing
lists all of them, with those that other tests show already.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fake_runtime import FakeRuntime
from inprocess import InProcess, eventually, in_process, second_node
from orca_master.identity.model import Role
from orca_master.services import reconcile, strategy
from orca_master.services.rollouts.model import DEPLOYMENTS
from orca_master.tasks.model import TASKS, Wanted

BROKEN = "broken:1"
NEVER_READY = {"command": ["exit", "1"], "interval_seconds": 0.1}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategy, "SETTLE_SECONDS", 0.05)
    monkeypatch.setattr(reconcile, "BACKOFF_FIRST_SECONDS", 0.05)


def a_service(image: str, *, replicas: int = 4, **deploy: Any) -> dict[str, Any]:
    return {"name": "web", "image": image, "replicas": replicas, "deploy": deploy}


def counts(runtime: FakeRuntime) -> list[int]:
    """How many replicas had been started and not told to stop, after each start and stop."""
    up: set[str] = set()
    found = []
    for _, verb, task in runtime.history:
        if verb == "start":
            up.add(task)
        elif verb == "stop":
            up.discard(task)
        else:
            continue
        found.append(len(up))
    return found


@asynccontextmanager
async def watched(cluster: InProcess) -> AsyncIterator[list[dict[str, Any]]]:
    """The statuses of `web` that are seen meanwhile."""
    seen: list[dict[str, Any]] = []

    async def look() -> None:
        while True:
            seen.append(await cluster.status("web"))
            await asyncio.sleep(0.005)

    looking = asyncio.ensure_future(look())
    try:
        yield seen
        assert not looking.done(), looking.exception()
    finally:
        looking.cancel()


async def until_over(cluster: InProcess, number: int) -> str:
    """The state in which a deployment of `web` ends."""

    def is_over() -> bool:
        return any(
            each.number == number and each.state.is_over
            for each in cluster.core.store.state.scan(DEPLOYMENTS)
        )

    await eventually(is_over)
    answer = await cluster.call("GET", "/api/v1/services/web/deployments")
    return next(str(d["state"]) for d in answer.json["deployments"] if d["deployment"] == number)


async def test_peers_one_replicas_report_says_nothing_of_the_others(cluster: InProcess) -> None:
    """PEERS 1.4, "Heartbeat updates status": one report overwrote the status of all replicas."""
    await cluster.deploy(a_service("app:1", replicas=3))
    before = {t["id"]: t for t in (await cluster.status("web"))["tasks"]}
    crashed, *others = before
    cluster.worker.runtime.crash(crashed, 9)
    shown = await cluster.until("web", running_replicas=2)
    now = {t["id"]: t for t in shown["tasks"]}
    assert [now[task] for task in others] == [before[task] for task in others]
    assert crashed not in now or not now[crashed]["healthy"]
    stopped = {task for _, verb, task in cluster.worker.runtime.history if verb == "stop"}
    assert stopped <= {crashed}


async def test_peers_what_is_not_ready_is_never_taken_for_healthy(cluster: InProcess) -> None:
    """PEERS 1.4, "Readiness gates traffic": after a while it was taken for healthy anyway."""
    await cluster.deploy(a_service("app:1", replicas=2))
    async with watched(cluster) as seen:
        broken = a_service("app:2", replicas=2, healthy_deadline="1s")
        answer = await cluster.deploy(broken | {"readiness": NEVER_READY})
    assert answer.json["outcomes"][0]["state"] == "reverted"
    new = [t for shown in seen for t in shown["tasks"] if t["revision"] == 2]
    assert new
    assert not any(task["healthy"] for task in new)
    assert {shown["running_replicas"] for shown in seen} == {2}


async def test_peers_a_rolling_update_takes_so_many_at_a_time(cluster: InProcess) -> None:
    """PEERS 1.4, "Rolling update": all of the new started, then all of the old stopped (uncloud#4)."""
    await cluster.deploy(a_service("app:1"))
    assert max(counts(cluster.worker.runtime)) == 4
    answer = await cluster.deploy(a_service("app:2", max_parallel=1))
    assert answer.status == 200
    await eventually(lambda: len(cluster.worker.machine.things) == 4)
    assert set(counts(cluster.worker.runtime)[4:]) == {4, 5}


async def test_peers_an_update_of_which_some_fail_stops_no_old_replica_without_a_new_one(
    cluster: InProcess,
) -> None:
    """PEERS 1.4, "Rolling update": the old ones stopped although some of the new had failed."""
    await cluster.deploy(a_service("app:1"))
    started = len(counts(cluster.worker.runtime))
    async with watched(cluster) as seen:
        deploying = asyncio.ensure_future(cluster.deploy(a_service("app:2", max_parallel=2)))
        await eventually(lambda: len(counts(cluster.worker.runtime)) > started)
        cluster.worker.machine.registry["app:2"] = "gone"
        cluster.worker.machine.images = {"app:1"}
        assert (await deploying).json["outcomes"][0]["state"] == "reverted"
    assert min(shown["running_replicas"] for shown in seen) == 4
    shown = await cluster.until("web", status="running", revision=1)
    assert {task["revision"] for task in shown["tasks"] if task["healthy"]} == {1}


async def test_peers_a_way_back_outlives_a_restart_and_takes_no_replica_away(
    tmp_path: Path,
) -> None:
    """PEERS 1.4, "Rollback always available": the history was in memory, and all stopped first."""
    async with in_process(tmp_path / "m") as first:
        await first.deploy(a_service("app:1", replicas=3))
        await first.deploy(a_service("app:2", replicas=3))
        await eventually(lambda: len(first.worker.machine.things) == 3)
        kept = dict(first.worker.machine.things)
    async with in_process(tmp_path / "m", with_node=False) as second:
        second.worker.machine.things.update(kept)
        second.worker.start()
        await second.until("web", status="running", running_replicas=3)
        async with watched(second) as seen:
            answer = await second.call("POST", "/api/v1/services/web/rollback")
            assert (answer.status, answer.json["revision"]) == (200, 1)
            await second.until("web", status="running", stable_revision=1, image="app:1")
        assert {shown["running_replicas"] for shown in seen} == {3}


async def test_peers_a_viewer_neither_promotes_nor_makes_webhooks(cluster: InProcess) -> None:
    """PEERS 1.4, "RBAC": what was posted to an unknown path, and more, a viewer might do."""
    viewer = await cluster.add_token(Role.VIEWER)
    await cluster.deploy(a_service("app:1"))
    await cluster.deploy(a_service("app:2", strategy="canary"))
    hook = {"service": "web", "type": "github", "branch": "main"}
    version = cluster.core.store.state.version
    for path, body in (
        ("/api/v1/services/web/promote", None),
        ("/api/v1/services/web/rollback", None),
        ("/api/v1/webhooks", hook),
    ):
        answer = await cluster.call("POST", path, body, token=viewer)
        assert answer.status == 403, path
        assert (await cluster.call("POST", path, body, token=None)).status == 401, path
    assert (await cluster.call("POST", "/api/v1/nowhere", {}, token=viewer)).status == 404
    assert cluster.core.store.state.version == version


async def test_peers_replicas_auto_is_refused_and_not_taken_for_one(cluster: InProcess) -> None:
    """PEERS 1.4, "replicas = auto": it meant one."""
    answer = await cluster.deploy({"name": "web", "replicas": "auto"})
    assert answer.status == 400
    (problem,) = answer.json["problems"]
    assert problem["field"] == "services.0.replicas"
    assert (await cluster.call("GET", "/api/v1/status")).json["services"] == []


async def test_peers_a_deploy_of_what_ends_by_design_is_not_waited_for(cluster: InProcess) -> None:
    """docker/cli#5299: waiting for a service hangs for ever when its program ends with success."""
    answer = await cluster.deploy({"name": "web", "command": ["exit", "0"]}, timeout="60")
    assert answer.status == 500
    assert answer.json["errors"] == ["web: exited with code 0"]


async def test_peers_the_new_image_is_there_before_anything_old_stops(cluster: InProcess) -> None:
    """nomad#6380: the old one was stopped, and then the image was pulled."""
    await cluster.deploy(a_service("app:1"))
    runtime = cluster.worker.runtime
    cluster.worker.machine.images = {"app:1"}
    runtime.pull_seconds = 0.2
    begun = len(runtime.history)
    assert (await cluster.deploy(a_service("app:2"))).status == 200
    verbs = [verb for _, verb, _ in runtime.history[begun:]]
    assert verbs.index("prepare") < verbs.index("start") < verbs.index("stop")


async def test_peers_a_way_back_takes_no_canary_steps(cluster: InProcess) -> None:
    """nomad#10882: a revert went through the canary again, and waited to be promoted."""
    canary = {"strategy": "canary", "canary_weight": 10}
    await cluster.deploy(a_service("app:1", **canary))
    stable = set(cluster.worker.machine.things)
    answer = await cluster.deploy(a_service(BROKEN, **canary))
    assert answer.json["outcomes"][0]["state"] == "reverted"
    await eventually(lambda: set(cluster.worker.machine.things) == stable)
    await cluster.deploy(a_service("app:3", **canary))
    await cluster.call("POST", "/api/v1/services/web/promote")
    assert await until_over(cluster, 3) == "succeeded"
    answer = await cluster.call("POST", "/api/v1/services/web/rollback")
    assert (answer.status, answer.json["revision"]) == (200, 1)
    assert await until_over(cluster, 4) == "succeeded"
    assert (await cluster.status("web"))["image"] == "app:1"


async def test_peers_a_canary_that_failed_does_not_come_back_at_a_drain(cluster: InProcess) -> None:
    """nomad#6864: what was moved off a drained node ran the version that had been given up."""
    await cluster.deploy(a_service("app:1"))
    await cluster.deploy(a_service("app:2", strategy="canary"))
    await cluster.call("POST", "/api/v1/services/web/rollback")
    assert await until_over(cluster, 2) == "reverted"
    other = await second_node(cluster)
    try:
        await cluster.call("POST", f"/api/v1/cluster/nodes/{cluster.worker.name}/drain")

        def has_moved() -> bool:
            tasks = [t for t in cluster.core.store.state.scan(TASKS) if t.wanted is Wanted.RUN]
            return {task.node for task in tasks} == {other.id}

        await eventually(has_moved)
        await cluster.until("web", status="running", running_replicas=4, revision=1)
        assert {thing.spec.image for thing in other.machine.things.values()} == {"app:1"}
    finally:
        await other.kill()


async def test_peers_a_way_back_brings_image_configuration_and_secrets_together(
    cluster: InProcess,
) -> None:
    """argo-rollouts#1297: the image went back, its configuration did not."""

    async def put(value: str) -> None:
        path = "/api/v1/secrets/KEY"
        answer = await cluster.call("PUT", path, {"value": value, "roll": False})
        assert answer.status == 200

    def service(number: str) -> dict[str, Any]:
        env = {"MODE": number, "PASSWORD": "${secrets.KEY}"}
        return a_service(f"app:{number}", replicas=1) | {"env": env}

    def given() -> list[tuple[str, str, str]]:
        specs = [thing.spec for thing in cluster.worker.machine.things.values()]
        return [(s.image, s.env.get("MODE", ""), s.secret_env.get("PASSWORD", "")) for s in specs]

    await put("one")
    await cluster.deploy(service("1"))
    await put("two")
    await cluster.deploy(service("2"))
    await eventually(lambda: given() == [("app:2", "2", "two")])
    assert (await cluster.call("POST", "/api/v1/services/web/rollback")).status == 200
    await eventually(lambda: given() == [("app:1", "1", "one")])
