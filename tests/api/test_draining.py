"""Draining a node through the API: by id or name, twice, by whom, and in the trail."""

from typing import Any

import pytest

from inprocess import InProcess
from orca_master.cluster.model import NODES
from orca_master.identity.model import Role

DRAIN, UNDRAIN = "/api/v1/cluster/nodes/{}/drain", "/api/v1/cluster/nodes/{}/undrain"


async def test_a_node_is_drained_and_undrained_by_id_or_name(cluster: InProcess) -> None:
    for name in (cluster.worker.id, cluster.worker.name):
        for _ in range(2):  # what is so already is no mistake
            answer = await cluster.call("POST", DRAIN.format(name))
            assert (answer.status, answer.json["status"]) == (200, "drained")
            assert answer.json["node"]["schedulable"] is False
        info = (await cluster.call("GET", "/api/v1/cluster/info")).json
        assert [(n["schedulable"], n["tasks"]) for n in info["nodes"]] == [(False, 0)]
        answer = await cluster.call("POST", UNDRAIN.format(name))
        assert (answer.json["status"], answer.json["node"]["schedulable"]) == ("undrained", True)
    trail = (await cluster.call("GET", "/api/v1/audit?limit=4")).json["events"]
    assert [event["action"] for event in trail] == ["node.undrain", "node.drain"] * 2
    assert {event["resource"] for event in trail} == {f"nodes/{cluster.worker.name}"}


async def test_a_drained_node_gets_nothing_new(cluster: InProcess) -> None:
    await cluster.deploy({"name": "before"})
    await cluster.call("POST", DRAIN.format(cluster.worker.name))
    answer = await cluster.deploy({"name": "after"})
    assert answer.status == 500
    assert answer.json["errors"] == ["after: no node fits (1 node: is drained)"]
    assert (await cluster.status("before"))["running_replicas"] == 1, "it has nowhere to go"
    await cluster.call("POST", UNDRAIN.format(cluster.worker.name))
    await cluster.until("after", running_replicas=1)
    await cluster.until("before", running_replicas=1)


async def drain_of(cluster: InProcess) -> Any:
    info = (await cluster.call("GET", "/api/v1/cluster/info")).json
    return info["nodes"][0]["drain"]


async def test_what_cannot_leave_says_why_and_is_stopped_at_the_deadline(
    cluster: InProcess,
) -> None:
    await cluster.deploy({"name": "web", "replicas": 2})
    assert await drain_of(cluster) is None
    path = DRAIN.format(cluster.worker.name)
    answer = await cluster.call("POST", path, params={"deadline": "3600"})
    drain = answer.json["node"]["drain"]
    assert (drain["state"], drain["deadline"] - drain["since"]) == ("draining", 3600)
    async with cluster.waiting():
        while (await drain_of(cluster))["left"][0]["reason"] is None:
            pass
    assert (await drain_of(cluster))["left"] == [
        {
            "project": "default",
            "service": "web",
            "replica": replica,
            "reason": "no node fits (1 node: is drained)" if replica == 1 else None,
        }
        for replica in (1, 2)  # one at a time: the second has not tried yet
    ]
    await cluster.call("POST", path, params={"deadline": "1"})
    await cluster.until("web", running_replicas=0)
    async with cluster.waiting():
        while (await drain_of(cluster))["state"] != "drained":
            pass
    await cluster.call("POST", UNDRAIN.format(cluster.worker.name))
    await cluster.until("web", running_replicas=2)
    assert await drain_of(cluster) is None


async def test_by_force_everything_is_stopped_at_once(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web"})
    path = DRAIN.format(cluster.worker.name)
    await cluster.call("POST", path, params={"force": "true"})
    await cluster.until("web", running_replicas=0)
    trail = (await cluster.call("GET", "/api/v1/audit?limit=1")).json["events"]
    assert (trail[0]["action"], trail[0]["details"]) == ("node.drain", {"force": "True"})


@pytest.mark.parametrize("params", [{"deadline": "0"}, {"deadline": "soon"}, {"force": "maybe"}])
async def test_a_drain_that_makes_no_sense_is_refused(
    cluster: InProcess, params: dict[str, str]
) -> None:
    answer = await cluster.call("POST", DRAIN.format(cluster.worker.name), params=params)
    assert answer.status == 400
    assert await drain_of(cluster) is None


async def test_labels_are_set_and_taken_away_and_count(cluster: InProcess) -> None:
    path = f"/api/v1/cluster/nodes/{cluster.worker.name}/labels"
    pinned = {"name": "web", "placement": {"rules": ["disk = ssd"]}}
    assert (await cluster.deploy(pinned)).status == 500
    answer = await cluster.call("PUT", path, {"labels": {"disk": "ssd", "zone": "a"}})
    assert answer.json["labels"] == {"disk": "ssd", "zone": "a"}
    await cluster.until("web", running_replicas=1)
    answer = await cluster.call("PUT", path, {"labels": {"zone": None, "none": None}})
    assert answer.json["labels"] == {"disk": "ssd"}
    for labels in ({"a b": "c"}, {"a": "b c"}, {"a": 1}, {"": "x"}):
        assert (await cluster.call("PUT", path, {"labels": labels})).status == 400
    trail = (await cluster.call("GET", "/api/v1/audit?limit=1")).json["events"]
    assert trail[0]["action"] == "node.label"


async def test_a_node_with_work_is_not_removed_by_mistake(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web"})
    path = f"/api/v1/cluster/nodes/{cluster.worker.name}"
    answer = await cluster.call("DELETE", path)
    assert answer.status == 409
    assert answer.json["error"] == (
        f"{cluster.worker.name} has 1 replica: bring them away first"
        f" (`orca nodes drain {cluster.worker.name} --wait`), or insist with --force"
    )
    answer = await cluster.call("DELETE", path, params={"force": "true"})
    assert answer.json == {"ok": f"removed node {cluster.worker.name}"}
    assert (await cluster.call("GET", "/api/v1/cluster/info")).json["nodes"] == []
    async with cluster.waiting():
        while "no nodes yet" not in ((await cluster.status("web"))["reason"] or ""):
            pass
    assert (await cluster.status("web"))["running_replicas"] == 0
    assert (await cluster.call("DELETE", path)).status == 404


@pytest.mark.parametrize("role", [Role.VIEWER, Role.DEPLOYER])
async def test_only_admins_drain_az_25(cluster: InProcess, role: Role) -> None:
    token = await cluster.add_token(role)
    for path in (DRAIN, UNDRAIN):
        answer = await cluster.call("POST", path.format(cluster.worker.name), token=token)
        assert answer.status == 403
    path = f"/api/v1/cluster/nodes/{cluster.worker.name}"
    assert (await cluster.call("DELETE", path, token=token)).status == 403
    labels = {"labels": {"a": "b"}}
    assert (await cluster.call("PUT", f"{path}/labels", labels, token=token)).status == 403
    assert all(node.schedulable for node in cluster.core.store.state.scan(NODES))


async def test_a_node_that_is_none_is_a_404(cluster: InProcess) -> None:
    answer = await cluster.call("POST", DRAIN.format("nope"))
    assert (answer.status, answer.json["error"]) == (404, "node not found: nope")
