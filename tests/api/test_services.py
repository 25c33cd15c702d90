"""The endpoints of services, as API document 002 states them."""

from pathlib import Path
from typing import Any

import pytest

from inprocess import Answer, InProcess, eventually, in_process
from orca_master.services.model import SERVICES
from orca_master.services.strategy import SETTLE_SECONDS


def told(answer: Answer) -> dict[str, Any]:
    """The document's fields."""
    return {key: value for key, value in answer.json.items() if key != "outcomes"}


async def test_a_deploy_answers_when_the_service_runs(cluster: InProcess) -> None:
    answer = await cluster.deploy({"name": "web", "replicas": 2, "port": 80})
    assert (answer.status, told(answer)) == (200, {"deployed": ["web"], "errors": []})
    outcome = {"state": "running", "reason": None, "revision": 1, "deployment": 1}
    assert answer.json["outcomes"] == [{"service": "web", "project": "default"} | outcome]
    shown = await cluster.status("web")
    assert (shown["status"], shown["replicas"], shown["running_replicas"]) == ("running", 2, 2)
    assert len(cluster.worker.machine.things) == 2


async def test_an_equal_deploy_changes_nothing(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web", "replicas": 2})
    before, version = set(cluster.worker.machine.things), cluster.core.store.state.version
    answer = await cluster.deploy({"name": "web", "replicas": 2})
    assert told(answer) == {"deployed": ["web"], "errors": []}
    assert set(cluster.worker.machine.things) == before
    assert cluster.core.store.state.version == version
    assert (await cluster.status("web"))["revision"] == 1


async def test_what_fails_is_named_with_the_engines_reason_and_the_rest_runs(
    cluster: InProcess,
) -> None:
    answer = await cluster.deploy({"name": "good"}, {"name": "bad", "image": "broken:1"})
    assert answer.status == 206
    assert told(answer) == {
        "deployed": ["good"],
        "errors": ["bad: image broken:1 not found: manifest unknown"],
    }


async def test_nothing_deployed_is_a_500(cluster: InProcess) -> None:
    answer = await cluster.deploy({"name": "bad", "image": "broken:1"})
    assert answer.status == 500
    assert answer.json["deployed"] == []


async def test_an_invalid_request_changes_nothing_and_names_every_mistake(
    cluster: InProcess,
) -> None:
    answer = await cluster.deploy({"name": "good"}, {"name": "B_d", "port": 0, "bogus": 1})
    assert answer.status == 400
    fields = [problem["field"] for problem in answer.json["problems"]]
    assert fields == ["services.1.name", "services.1.port", "services.1.bogus"]
    assert (await cluster.call("GET", "/api/v1/status")).json == {"services": []}


async def test_without_waiting_the_answer_is_202_and_the_work_goes_on(cluster: InProcess) -> None:
    answer = await cluster.deploy({"name": "web"}, wait="false")
    assert answer.status == 202
    assert told(answer) == {"deployed": [], "errors": [], "accepted": ["web"]}
    await cluster.until("web", status="running")


async def test_after_the_timeout_it_says_so_and_the_work_goes_on(cluster: InProcess) -> None:
    cluster.worker.runtime.start_seconds = 1.0
    answer = await cluster.deploy({"name": "web"}, timeout="0.3")
    assert answer.status == 500
    assert answer.json["errors"][0].startswith(
        "web: still in progress after 0.3 s (0 of 1 replicas"
    )
    await cluster.until("web", status="running")


async def test_a_program_that_fails_at_once_is_no_success(cluster: InProcess) -> None:
    answer = await cluster.deploy({"name": "web", "command": ["exit", "3", "0.1"]})
    assert (answer.status, answer.json["errors"]) == (500, ["web: exited with code 3"])


async def test_what_runs_already_is_answered_at_once(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web"})
    started = cluster.core.env.monotonic()
    await cluster.deploy({"name": "web"})
    assert cluster.core.env.monotonic() - started < SETTLE_SECONDS / 2


async def test_a_failed_deploy_is_tried_again_at_once_by_the_next_one(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web", "image": "broken:1"})
    cluster.worker.machine.registry.clear()
    answer = await cluster.deploy({"name": "web", "image": "broken:1"})
    assert told(answer) == {"deployed": ["web"], "errors": []}


async def test_a_changed_service_rolls_and_the_old_replicas_go(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web", "replicas": 2})
    old = set(cluster.worker.machine.things)
    answer = await cluster.deploy({"name": "web", "replicas": 2, "image": "app:2"})
    assert answer.json["errors"] == []
    await cluster.until("web", status="running", revision=2)
    await eventually(lambda: not old & set(cluster.worker.machine.things))


async def test_a_bad_new_revision_leaves_the_old_one_running(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web"})
    old = set(cluster.worker.machine.things)
    answer = await cluster.deploy({"name": "web", "image": "broken:1"})
    assert answer.status == 500
    assert answer.json["outcomes"][0]["state"] == "reverted"
    assert answer.json["errors"] == [
        "web: replica 1: image broken:1 not found: manifest unknown (try 3 of 3);"
        " revision 1 is what runs"
    ]
    await cluster.until("web", status="running", running_replicas=1, revision=1)
    await eventually(lambda: set(cluster.worker.machine.things) == old)


async def test_scale_up_and_down(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web", "replicas": 1})
    answer = await cluster.call("POST", "/api/v1/services/web/scale", {"replicas": 4})
    assert (answer.status, answer.json) == (200, {"service": "web", "replicas": 4})
    await cluster.until("web", running_replicas=4, status="running")
    await cluster.call("POST", "/api/v1/services/web/scale", {"replicas": 1})
    await cluster.until("web", running_replicas=1, status="running")
    assert (await cluster.status("web"))["revision"] == 1


async def test_a_stopped_service_keeps_its_row_and_starts_again(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web", "replicas": 2})
    answer = await cluster.call("DELETE", "/api/v1/services/web")
    assert (answer.status, answer.json) == (200, {"ok": "stop web"})
    shown = await cluster.until("web", status="stopped", running_replicas=0)
    assert shown["replicas"] == 2
    await cluster.call("POST", "/api/v1/services/web/scale", {"replicas": 1})
    await cluster.until("web", status="running")


async def test_purge_forgets(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web"})
    await cluster.call("DELETE", "/api/v1/services/web?purge=true")
    await eventually(lambda: not cluster.core.store.state.count(SERVICES))
    assert (await cluster.call("GET", "/api/v1/status")).json == {"services": []}
    assert cluster.worker.machine.things == {}


async def test_stop_a_project_and_everything(cluster: InProcess) -> None:
    await cluster.deploy(
        {"name": "a", "project": "p"}, {"name": "b", "project": "p"}, {"name": "c"}
    )
    answer = await cluster.call("DELETE", "/api/v1/projects/p")
    assert answer.json == {"ok": "stopped project p", "stopped": ["a", "b"]}
    assert (await cluster.status("c"))["status"] == "running"
    answer = await cluster.call("POST", "/api/v1/stop")
    assert answer.json["ok"] == "stop all"
    assert (await cluster.status("c"))["status"] == "stopped"
    assert (await cluster.call("DELETE", "/api/v1/projects/nope")).status == 404


async def test_an_ambiguous_name_asks_for_the_project(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web", "project": "a"}, {"name": "web", "project": "b"})
    answer = await cluster.call("POST", "/api/v1/services/web/scale", {"replicas": 2})
    assert answer.status == 409
    assert answer.json["error"] == (
        "service web exists in several projects (a, b): say which with ?project="
    )
    answer = await cluster.call("POST", "/api/v1/services/web/scale?project=a", {"replicas": 2})
    assert answer.status == 200
    only_a = (await cluster.call("GET", "/api/v1/status?project=a")).json["services"]
    assert [service["replicas"] for service in only_a] == [2]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/v1/services/nope/scale", {"replicas": 1}),
        ("DELETE", "/api/v1/services/nope", None),
        ("GET", "/api/v1/services/nope/logs", None),
    ],
)
async def test_an_unknown_service_is_a_404(
    cluster: InProcess, method: str, path: str, body: object
) -> None:
    answer = await cluster.call(method, path, body)
    assert (answer.status, answer.json["error"]) == (404, "service not found: nope")


async def test_in_16_an_unknown_node_is_an_error_and_nothing_runs(cluster: InProcess) -> None:
    answer = await cluster.deploy({"name": "web", "placement": {"node": "worker-9"}})
    assert answer.status == 500
    assert answer.json["errors"] == ["web: no node is named worker-9 (nodes: node-1)"]
    assert cluster.worker.machine.things == {}


async def test_in_09_a_missing_secret_is_an_error_that_names_it(cluster: InProcess) -> None:
    answer = await cluster.deploy({"name": "web", "env": {"A": "${secrets.KEY}"}}, {"name": "b"})
    assert answer.status == 206
    assert told(answer) == {
        "deployed": ["b"],
        "errors": [
            "web: secret KEY does not exist: set it with `orca secrets set KEY`, or with"
            " `--project default` for this project only"
        ],
    }


async def test_a_crashed_replica_comes_back(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web"})
    (first,) = cluster.worker.machine.things
    cluster.worker.runtime.crash(first, 3)
    shown = await cluster.until("web", status="failed")
    assert shown["reason"] == "replica 1: exited with code 3"
    shown = await cluster.until("web", status="running")
    assert shown["tasks"][0]["attempt"] == 1


async def test_logs_are_plain_text(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web"})
    (task,) = cluster.worker.machine.things
    cluster.worker.runtime.write(task, b"one\ntwo\nthree\n")
    answer = await cluster.call("GET", "/api/v1/services/web/logs?tail=2")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.text == "two\nthree\n"


async def test_logs_of_several_replicas_name_the_replica(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web", "replicas": 2})
    for task in cluster.worker.machine.things:
        cluster.worker.runtime.write(task, b"hello\n")
    answer = await cluster.call("GET", "/api/v1/services/web/logs")
    assert answer.text == "web/1 | hello\nweb/2 | hello\n"


@pytest.mark.parametrize("tail", ["-1", "abc", "1000000000000"])
async def test_in_20_bad_tails_are_refused(cluster: InProcess, tail: str) -> None:
    answer = await cluster.call("GET", f"/api/v1/services/web/logs?tail={tail}")
    assert answer.status == 400
    assert answer.json["problems"][0]["field"] == "query.tail"


async def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    async with in_process(tmp_path / "m") as first:
        await first.deploy({"name": "web", "replicas": 2})
        kept = dict(first.worker.machine.things)
    async with in_process(tmp_path / "m", with_node=False) as second:
        second.worker.machine.things.update(kept)
        second.worker.start()
        await second.until("web", status="running", running_replicas=2)
        assert set(second.worker.machine.things) == set(kept)
        verbs = {verb for _, verb, _ in second.worker.runtime.history}
        assert not verbs & {"create", "start", "stop", "remove"}
