"""`depends_on`: what starts before what, through the API of a whole master with a worker."""

import asyncio
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from inprocess import InProcess, eventually
from orca.main import cli

NEVER_READY = {"path": "/never", "period_seconds": 1}


def machines(cluster: InProcess) -> list[str]:
    """The services of what runs, in the order of their start."""
    return [thing.task.service for thing in cluster.worker.machine.things.values()]


async def test_a_request_starts_in_order_whatever_its_own_order(cluster: InProcess) -> None:
    answer = await cluster.deploy(
        {"name": "web", "depends_on": ["api"]},
        {"name": "api", "depends_on": {"db": {"condition": "healthy"}}},
        {"name": "db", "replicas": 2},
    )
    assert answer.status == 200, answer.json
    assert machines(cluster) == ["db", "db", "api", "web"]
    shown = await cluster.status("api")
    assert (shown["depends_on"], shown["reason"]) == ({"db": "healthy"}, None)
    found = await cluster.call("GET", "/api/v1/services/web/deployments")
    said = [sentence["text"] for sentence in found.json["deployments"][0]["said"]]
    assert "begins once api is healthy" in said
    assert "what it depends on is there: it begins" in said


async def test_a_service_says_what_it_waits_for_and_begins_when_it_is_there(
    cluster: InProcess,
) -> None:
    await cluster.deploy({"name": "db", "image": "broken:1"}, wait="false")
    answer = await cluster.deploy({"name": "web", "depends_on": ["db"]}, timeout="0.5")
    assert answer.json["outcomes"][0]["state"] == "open"
    waits = "waits for db: 0 of 1 replicas ready"
    assert waits in answer.json["outcomes"][0]["reason"]
    shown = await cluster.until("web", status="pending", reason=waits)
    assert shown["tasks"] == []
    placement = await cluster.call("GET", "/api/v1/services/web/placement")
    assert placement.json["waits"] == [waits]
    plan = await cluster.deploy({"name": "api", "depends_on": ["db"]}, plan="true")
    assert plan.json["plan"][0]["waits"] == [waits]
    await cluster.deploy({"name": "db"})
    await cluster.until("web", status="running", reason=None)


async def test_a_changed_service_goes_on_as_it_was_until_its_dependency_is_there(
    cluster: InProcess,
) -> None:
    await cluster.deploy({"name": "db"}, {"name": "web", "depends_on": ["db"]})
    (before,) = (await cluster.status("web"))["tasks"]
    await cluster.call("POST", "/api/v1/services/db/stop")
    await cluster.until("db", status="stopped")
    assert (await cluster.status("web"))["status"] == "running"

    canary = {"name": "web", "image": "app:2", "depends_on": ["db"]} | {
        "deploy": {"strategy": "canary", "canary": {"auto_promote": True}}
    }
    await cluster.deploy(canary, wait="false")
    shown = await cluster.until("web", reason="waits for db: it is stopped")
    assert [task["id"] for task in shown["tasks"]] == [before["id"]]
    (id,) = (id for id, t in cluster.worker.machine.things.items() if t.task.service == "web")
    cluster.worker.runtime.crash(id, 1)
    again = await cluster.until("web", running_replicas=0)
    again = await cluster.until("web", running_replicas=1)
    assert {task["revision"] for task in again["tasks"]} == {1}

    await cluster.call("POST", "/api/v1/services/db/start")
    await cluster.until("web", status="running", revision=2, stable_revision=2)


async def test_a_rollback_does_not_wait_and_a_start_does(cluster: InProcess) -> None:
    await cluster.deploy({"name": "db"}, {"name": "web", "depends_on": ["db"]})
    await cluster.call("POST", "/api/v1/services/db/stop")
    await cluster.deploy({"name": "web", "image": "app:2", "depends_on": ["db"]}, wait="false")
    await cluster.until("web", reason="waits for db: it is stopped")
    answer = await cluster.call("POST", "/api/v1/services/web/rollback")
    assert answer.status == 200
    await cluster.until("web", status="running", revision=1, rollout=None)
    await cluster.call("POST", "/api/v1/services/web/stop")
    await eventually(lambda: machines(cluster) == [])
    await cluster.call("POST", "/api/v1/services/web/start")
    await cluster.until("web", status="pending", reason="waits for db: it is stopped")
    await cluster.call("POST", "/api/v1/services/db/start")
    await cluster.until("web", status="running")


async def test_circles_and_unknown_names_are_refused_and_nothing_is_done(
    cluster: InProcess,
) -> None:
    await cluster.deploy({"name": "db"}, {"name": "api", "depends_on": ["db"]})
    answer = await cluster.deploy({"name": "new"}, {"name": "db", "depends_on": ["api"]})
    assert answer.status == 400
    assert "db → api → db" in answer.text
    answer = await cluster.deploy({"name": "new"}, {"name": "web", "depends_on": ["dbb"]})
    assert answer.status == 400
    assert "there is no service dbb in project default" in answer.text
    names = [s["name"] for s in (await cluster.call("GET", "/api/v1/status")).json["services"]]
    assert names == ["api", "db"]


async def test_who_depends_on_what_cannot_be_deployed_is_not_either(cluster: InProcess) -> None:
    secret: dict[str, Any] = {"name": "db", "env": {"P": "${secrets.NONE}"}}
    answer = await cluster.deploy(secret, {"name": "web", "depends_on": ["db"]}, {"name": "free"})
    assert (answer.status, answer.json["deployed"]) == (206, ["free"])
    assert "web: db, which it depends on, is not deployed" in answer.json["errors"]


async def test_what_others_need_is_removed_with_force_only(cluster: InProcess) -> None:
    await cluster.deploy({"name": "db"}, {"name": "web", "depends_on": ["db"]})
    answer = await cluster.call("DELETE", "/api/v1/services/db?purge=true")
    assert answer.status == 409
    assert "web depends on db" in answer.text
    answer = await cluster.call("DELETE", "/api/v1/services/db?purge=true&force=true")
    assert answer.status == 200
    await eventually(lambda: machines(cluster) == ["web"])
    assert (await cluster.status("web"))["status"] == "running"
    await cluster.call("POST", "/api/v1/services/web/restart")
    await cluster.until("web", reason="waits for db: there is no such service")


async def test_the_command_line_takes_the_way_out_that_a_refusal_names(
    cluster: InProcess, tmp_path: Path
) -> None:
    await cluster.deploy({"name": "db"}, {"name": "web", "depends_on": ["db"]})
    runner = CliRunner(
        env={"ORCA_API": cluster.api, "ORCA_TOKEN": cluster.token, "HOME": str(tmp_path)}
    )

    async def orca(*words: str) -> tuple[int, str]:
        done = await asyncio.to_thread(runner.invoke, cli, list(words))
        return done.exit_code, done.output

    code, said = await orca("stop", "db", "--purge")
    assert code == 1
    assert "or force it (`--force`" in said
    code, said = await orca("stop", "db", "--force")
    assert code == 2
    assert "--force is for services that are named and forgotten (--purge)" in said
    assert (await cluster.status("db"))["status"] == "running"
    assert await orca("stop", "db", "--purge", "--force") == (0, "db: stopped\n")
    await eventually(lambda: machines(cluster) == ["web"])
