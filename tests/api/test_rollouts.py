"""Rollouts, canaries and ways back, through the API of a whole master with a worker."""

from typing import Any

from inprocess import InProcess, eventually

BROKEN = "broken:1"


def a_service(image: str, *, replicas: int = 4, **deploy: Any) -> dict[str, Any]:
    return {"name": "web", "image": image, "replicas": replicas, "deploy": deploy}


def machines(cluster: InProcess) -> set[str]:
    """The ids of what runs."""
    return set(cluster.worker.machine.things)


async def post(cluster: InProcess, verb: str, **query: str) -> Any:
    asked = "&".join(f"{key}={value}" for key, value in query.items())
    return await cluster.call("POST", f"/api/v1/services/web/{verb}?{asked}")


async def get(cluster: InProcess, what: str) -> Any:
    answer = await cluster.call("GET", f"/api/v1/services/web/{what}")
    assert answer.status == 200, answer.json
    return answer.json[what]


async def test_a_rolling_update_is_a_deployment_with_its_sentences(cluster: InProcess) -> None:
    await cluster.deploy(a_service("app:1"))
    answer = await cluster.deploy(a_service("app:2", max_parallel=1))
    assert answer.json["outcomes"][0]["state"] == "running"
    shown = await cluster.status("web")
    assert (shown["revision"], shown["stable_revision"], shown["rollout"]) == (2, 2, None)
    second, first = await get(cluster, "deployments")
    assert (first["base"], first["state"]) == (None, "succeeded")
    assert (second["base"], second["revision"], second["state"]) == (1, 2, "succeeded")
    said = [sentence["text"] for sentence in second["said"]]
    assert said[0] == "deploy: revision 2 replaces 1, rolling, start-first"
    assert "3 of 4 replicas run revision 2" in said
    assert said[-1].startswith("succeeded: revision 2 is what runs, after ")


async def test_a_revision_that_never_gets_ready_is_reverted_and_the_old_replicas_are_untouched(
    cluster: InProcess,
) -> None:
    await cluster.deploy(a_service("app:1"))
    before = {t["id"]: t["started_at"] for t in (await cluster.status("web"))["tasks"]}
    answer = await cluster.deploy(a_service(BROKEN))
    assert answer.status == 500
    assert answer.json["outcomes"][0]["state"] == "reverted"
    shown = await cluster.until("web", status="running", revision=1)
    tasks = [task for task in shown["tasks"] if task["revision"] == 1]
    assert {task["id"]: task["started_at"] for task in tasks} == before
    revisions = {r["revision"]: r for r in await get(cluster, "revisions")}
    assert (revisions[2]["rejected"], revisions[2]["stable"]) == (True, False)
    assert (revisions[1]["current"], revisions[1]["stable"]) == (True, True)


async def test_a_canary_stands_beside_the_stable_revision_until_it_is_promoted(
    cluster: InProcess,
) -> None:
    await cluster.deploy(a_service("app:1"))
    stable = machines(cluster)
    answer = await cluster.deploy(a_service("app:2", strategy="canary", canary_weight=5))
    assert (answer.status, answer.json["accepted"], answer.json["deployed"]) == (202, ["web"], [])
    assert answer.json["outcomes"][0]["state"] == "paused"
    shown = await cluster.status("web")
    assert (shown["status"], shown["running_replicas"]) == ("updating", 4)
    assert (shown["rollout"]["weight"], shown["rollout"]["ready"]) == (5, 1)
    assert shown["reason"] == "canary of revision 2: weight 5; waits to be promoted"
    assert stable < machines(cluster)
    assert len(machines(cluster)) == 5

    again = await cluster.deploy(a_service("app:2", strategy="canary", canary_weight=5))
    assert again.json["outcomes"][0]["deployment"] == 2
    await cluster.call("POST", "/api/v1/services/web/scale", {"replicas": 6})
    await cluster.until("web", running_replicas=6)
    await eventually(lambda: len(machines(cluster)) == 7)

    done = await post(cluster, "promote")
    assert (done.status, done.json["ok"], done.json["revision"]) == (200, "promote web", 2)
    shown = await cluster.until("web", status="running", revision=2, stable_revision=2)
    assert {task["revision"] for task in shown["tasks"] if task["state"] == "running"} == {2}
    await eventually(lambda: len(machines(cluster)) == 6)


async def test_rolling_back_a_canary_leaves_the_stable_revision_alone(cluster: InProcess) -> None:
    await cluster.deploy(a_service("app:1"))
    stable = machines(cluster)
    await cluster.deploy(a_service("app:2", strategy="canary", canary={"percent": 50}))
    assert len(machines(cluster)) == 6
    done = await post(cluster, "rollback")
    assert (done.status, done.json["ok"], done.json["revision"]) == (200, "rollback web", 1)
    await cluster.until("web", status="running", revision=1, rollout=None)
    await eventually(lambda: machines(cluster) == stable)
    (canary, _) = await get(cluster, "deployments")
    assert (canary["state"], canary["reason"]) == ("reverted", "rolled back by admin")


async def test_a_canary_goes_through_its_steps(cluster: InProcess) -> None:
    await cluster.deploy(a_service("app:1"))
    steps = [
        {"weight": 10, "duration": "10ms"},
        {"weight": 30, "pause": True},
        {"weight": 60, "duration": "10ms"},
    ]
    canary = {"steps": steps, "auto_promote": True}
    answer = await cluster.deploy(a_service("app:2", strategy="canary", canary=canary))
    reason = answer.json["outcomes"][0]["reason"]
    assert reason == "canary of revision 2: step 2 of 3, weight 30; waits to be resumed"
    (canary_now, _) = await get(cluster, "deployments")
    assert (canary_now["step"], canary_now["weight"]) == (2, 30)
    assert (await post(cluster, "resume")).status == 200
    await cluster.until("web", status="running", stable_revision=2)
    said = [s["text"] for s in (await get(cluster, "deployments"))[0]["said"]]
    assert "canary of revision 2: step 3 of 3, weight 60 for 0.01 s" in said
    assert "its last step is over: revision 2 takes all 4 replicas" in said


async def test_promoting_one_step_at_a_time(cluster: InProcess) -> None:
    await cluster.deploy(a_service("app:1"))
    steps = [{"weight": 10, "pause": True}, {"weight": 50, "pause": True}]
    await cluster.deploy(a_service("app:2", strategy="canary", canary={"steps": steps}))
    assert (await post(cluster, "promote", step="true")).status == 200
    assert (await cluster.status("web"))["rollout"]["weight"] == 50
    assert (await post(cluster, "promote", step="true")).status == 200
    await cluster.until("web", status="running", stable_revision=2)


async def test_without_a_canary_or_a_rollout_the_verbs_say_so(cluster: InProcess) -> None:
    await cluster.deploy(a_service("app:1"))
    said = {}
    for verb in ("promote", "pause", "resume", "rollback"):
        answer = await post(cluster, verb)
        assert answer.status == 409
        said[verb] = answer.json["error"]
    assert said["promote"] == "service web has no canary to promote"
    assert said["pause"] == "service web has no rollout to pause"
    assert said["resume"] == "service web has no rollout to resume"
    assert said["rollback"].startswith("service web has no stable revision to go back to;")
    assert (await post(cluster, "rollback", revision="7")).status == 404
    assert (await post(cluster, "rollback", revision="1")).status == 409


async def test_a_rollback_goes_to_the_last_stable_revision_and_never_to_a_bad_one_again(
    cluster: InProcess,
) -> None:
    for image in ("app:1", "app:2", "app:3"):
        await cluster.deploy(a_service(image))
    await cluster.deploy(a_service(BROKEN))
    for expected, image in ((2, "app:2"), (1, "app:1")):
        done = await post(cluster, "rollback")
        assert (done.status, done.json["revision"]) == (200, expected)
        shown = await cluster.until("web", status="running", stable_revision=expected)
        assert shown["image"] == image
    assert (await post(cluster, "rollback")).status == 409
    done = await post(cluster, "rollback", revision="3")
    assert done.json["revision"] == 3
    await cluster.until("web", status="running", stable_revision=3, image="app:3")
    kinds = [d["kind"] for d in await get(cluster, "deployments")]
    assert kinds[:3] == ["rollback"] * 3
    answer = await cluster.deploy(a_service("app:4"))
    assert answer.json["outcomes"][0]["revision"] == 5


async def test_blue_green_keeps_the_old_set_whole_until_the_new_one_is(cluster: InProcess) -> None:
    await cluster.deploy(a_service("app:1", replicas=3))
    answer = await cluster.deploy(a_service("app:2", replicas=3, strategy="blue-green"))
    assert answer.status == 200
    said = [s["text"] for s in (await get(cluster, "deployments"))[0]["said"]]
    assert "all 3 replicas of revision 2 are ready: switched over" in said


async def test_old_replicas_that_are_kept_warm_take_over_at_once(cluster: InProcess) -> None:
    await cluster.deploy(a_service("app:1", keep_old="1h"))
    old = machines(cluster)
    await cluster.deploy(a_service("app:2", keep_old="1h"))
    assert old < machines(cluster)
    assert len(machines(cluster)) == 8
    await post(cluster, "rollback")
    await cluster.until("web", status="running", stable_revision=1)
    assert old <= machines(cluster)


async def test_a_new_deploy_lets_what_was_kept_warm_go_at_once(cluster: InProcess) -> None:
    """What they were kept for has proven itself; however long the new revision has to."""
    await cluster.deploy(a_service("app:1", keep_old="1h"))
    old = machines(cluster)
    await cluster.deploy(a_service("app:2", keep_old="1h"))
    assert old < machines(cluster)
    slow = a_service("app:3", max_parallel=1, min_healthy_time="1h")
    await cluster.deploy(slow, wait="false")
    await eventually(lambda: len(machines(cluster)) == 5 and not old & machines(cluster))
    assert (await cluster.status("web"))["running_replicas"] == 4


async def test_recreate_never_runs_two_revisions_at_once(cluster: InProcess) -> None:
    await cluster.deploy(a_service("app:1"))
    answer = await cluster.deploy(a_service("app:2", strategy="recreate"))
    assert answer.status == 200
    said = (await get(cluster, "deployments"))[0]["said"][0]["text"]
    assert said.endswith("recreate, stop-first, because the strategy is recreate")


async def test_a_rollout_can_be_paused_and_resumed(cluster: InProcess) -> None:
    """It gets nowhere by itself until it may."""
    await cluster.deploy(a_service("app:1"))
    await cluster.deploy(a_service("app:2", max_parallel=1, min_healthy_time="1h"), wait="false")
    assert (await post(cluster, "pause")).status == 200
    shown = await cluster.status("web")
    assert (shown["rollout"]["state"], shown["reason"]) == ("paused", "paused by admin")
    assert (await post(cluster, "pause")).status == 200
    assert (await post(cluster, "resume")).status == 200
    assert (await cluster.status("web"))["rollout"]["state"] == "running"
    answer = await cluster.deploy(a_service("app:2", max_parallel=1))
    assert answer.json["outcomes"][0]["deployment"] == 2
    await cluster.until("web", status="running", stable_revision=2)


async def test_a_way_back_is_over_at_once_where_the_old_replicas_never_stopped(
    cluster: InProcess,
) -> None:
    """They are what ran well: no `min_healthy_time` has to pass again, also for those that are younger."""
    await cluster.deploy(a_service("app:1"))
    old = machines(cluster)
    slow = a_service("app:2", max_parallel=1, min_healthy_time="1h")
    await cluster.deploy(slow, wait="false")
    await eventually(lambda: len(machines(cluster)) == 5)
    assert (await post(cluster, "rollback")).status == 200
    await cluster.until("web", status="running", revision=1, rollout=None)
    assert (await get(cluster, "deployments"))[0]["state"] == "reverted"
    await eventually(lambda: machines(cluster) == old)


async def test_a_failure_can_pause_instead(cluster: InProcess) -> None:
    await cluster.deploy(a_service("app:1"))
    answer = await cluster.deploy(a_service(BROKEN, auto_revert=False))
    assert (answer.status, answer.json["outcomes"][0]["state"]) == (202, "paused")
    assert (await cluster.status("web"))["running_replicas"] == 4
    cluster.worker.machine.registry.clear()
    assert (await post(cluster, "resume")).status == 200
    await cluster.until("web", status="running", stable_revision=2)


async def test_a_newer_deploy_supersedes_and_the_one_it_came_from_takes_it_back(
    cluster: InProcess,
) -> None:
    await cluster.deploy(a_service("app:1"))
    await cluster.deploy(a_service("app:2", strategy="canary"))
    answer = await cluster.deploy(a_service("app:3", strategy="canary"))
    assert answer.json["outcomes"][0]["revision"] == 3
    third, second, _ = await get(cluster, "deployments")
    assert (third["base"], third["state"]) == (1, "paused")
    assert (second["state"], second["reason"]) == ("superseded", "superseded by revision 3")
    answer = await cluster.deploy(a_service("app:1", strategy="canary"))
    assert (
        answer.json["outcomes"][0] | {"state": "running", "revision": 1}
        == (answer.json["outcomes"][0])
    )
    await eventually(lambda: len(machines(cluster)) == 4)


async def test_a_restart_replaces_every_replica(cluster: InProcess) -> None:
    await cluster.deploy(a_service("app:1"))
    old = machines(cluster)
    assert (await post(cluster, "restart")).status == 200
    await cluster.until("web", status="running", stable_revision=2, image="app:1")
    await eventually(lambda: len(machines(cluster)) == 4)
    assert not old & machines(cluster)


async def test_a_stopped_canary_is_not_what_starts_again(cluster: InProcess) -> None:
    await cluster.deploy(a_service("app:1"))
    await cluster.deploy(a_service("app:2", strategy="canary"))
    assert (await post(cluster, "stop")).status == 200
    await eventually(lambda: not machines(cluster))
    assert (await get(cluster, "deployments"))[0]["state"] == "cancelled"
    assert (await post(cluster, "start")).status == 200
    await cluster.until("web", status="running", revision=1, image="app:1")


async def test_mistakes_in_deploy_are_named_all_at_once(cluster: InProcess) -> None:
    bad = {"strategy": "canary", "canary": {"count": 1, "percent": 5}, "max_parallel": "0%"}
    answer = await cluster.deploy({"name": "web", "deploy": bad | {"keep_old": "soon"}})
    assert answer.status == 400
    fields = {problem["field"] for problem in answer.json["problems"]}
    assert "services.0.deploy.canary" in fields
    assert any(field.startswith("services.0.deploy.keep_old") for field in fields)


async def plan(cluster: InProcess, service: dict[str, Any]) -> dict[str, Any]:
    version = cluster.core.store.state.version
    answer = await cluster.deploy(service, plan="true")
    assert answer.status == 200
    assert cluster.core.store.state.version == version, "a plan changes nothing"
    (found,) = answer.json["plan"]
    return found


async def test_a_plan_says_what_the_deploy_then_does(cluster: InProcess) -> None:
    made = await plan(cluster, a_service("app:1"))
    assert (made["action"], made["revision"], made["replicas"]) == ("create", 1, 4)
    await cluster.deploy(a_service("app:1"))
    assert (await plan(cluster, a_service("app:1")))["action"] == "nothing"
    scaled = await plan(cluster, a_service("app:1", replicas=6))
    assert (scaled["action"], scaled["replicas_before"], scaled["fields"]) == ("in place", 4, [])
    canary = a_service("app:2", strategy="canary") | {"env": {"A": "b"}}
    changed = await plan(cluster, canary)
    assert (changed["action"], changed["fields"]) == ("replace", ["env.A", "image"])
    assert (changed["strategy"], changed["order"]) == ("canary", "start-first")
    answer = await cluster.deploy(canary)
    assert answer.json["outcomes"][0]["revision"] == changed["revision"]
    newer = await plan(cluster, a_service("app:3", strategy="blue-green", order="auto"))
    assert newer["reason"] == "it supersedes the rollout that is under way"
    fenced = await plan(cluster, a_service("app:3", strategy="blue-green") | {"fence": True})
    assert (fenced["strategy"], fenced["order"]) == ("rolling", "stop-first")
    assert fenced["reason"].startswith(
        "stop-first, because its replicas are fenced; not blue-green"
    )


async def test_a_plan_tells_what_blocks_it(cluster: InProcess) -> None:
    greedy = a_service("app:1", replicas=3) | {"resources": {"memory": "3Gi"}}
    found = await plan(cluster, greedy)
    assert found["blocked"].startswith("2 of 3 replicas find a node: no node fits (1 node: ")
    lacking = {"name": "web", "env": {"A": "${secrets.NOPE}"}}
    answer = await cluster.deploy(lacking, plan="true")
    assert (answer.status, answer.json["plan"]) == (200, [])
    assert "NOPE" in answer.json["errors"][0]
