"""Draining a node through the API: by id or name, twice, by whom, and in the trail."""

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


@pytest.mark.parametrize("role", [Role.VIEWER, Role.DEPLOYER])
async def test_only_admins_drain_az_25(cluster: InProcess, role: Role) -> None:
    token = await cluster.add_token(role)
    for path in (DRAIN, UNDRAIN):
        answer = await cluster.call("POST", path.format(cluster.worker.name), token=token)
        assert answer.status == 403
    assert all(node.schedulable for node in cluster.core.store.state.scan(NODES))


async def test_a_node_that_is_none_is_a_404(cluster: InProcess) -> None:
    answer = await cluster.call("POST", DRAIN.format("nope"))
    assert (answer.status, answer.json["error"]) == (404, "node not found: nope")
