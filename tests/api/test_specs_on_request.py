"""Specs that a worker asks for, and reports that are acknowledged. The test is the worker."""

from api.test_hostile_workers import Line, a_line, a_node
from inprocess import InProcess
from orca_master.cluster.model import NODES
from orca_master.tasks.model import TASKS, TaskState
from orca_master.tasks.specs import MOST_AT_ONCE
from orca_proto import worker_pb2 as pb

PLANTED = "planted-51c0"


async def asked(line: Line, *hashes: str) -> pb.Specs:
    line.say(specs_request=pb.SpecsRequest(hashes=hashes))
    return (await line.hear("specs")).specs


async def test_specs_are_sent_to_who_has_their_tasks_and_values_for_a_start_only_cl_17(
    cluster: InProcess,
) -> None:
    await cluster.call("PUT", "/api/v1/secrets/KEY", {"value": PLANTED})
    here = {"placement": {"node": cluster.worker.name}}
    await cluster.deploy({"name": "foreign", "env": {"A": "${secrets.KEY}", "B": "1"}} | here)
    (foreign,) = cluster.core.store.state.scan(TASKS)
    await a_node(cluster, "n2")
    hello = {"runtimes": ["docker"], "fetches_specs": True}
    async with a_line(cluster, "n2", **hello) as (line, _):
        assert (await line.hear("welcome")).welcome.acknowledges
        await line.hear("assignments")
        node = cluster.core.store.state.get(NODES, "n2")
        assert node is not None
        own = {"placement": {"node": node.name}, "name": "own", "env": {"A": "${secrets.KEY}"}}
        await cluster.deploy(own, wait="false")
        listed = (await line.hear("assignments")).assignments
        (task,) = listed.tasks
        assert (task.service, dict(listed.specs)) == ("own", {})

        found = await asked(line, task.spec_hash, foreign.spec, "never-heard-of")
        assert list(found.unknown) == [foreign.spec, "never-heard-of"]
        assert found.specs[task.spec_hash].secret_env == {"A": PLANTED}
        assert not found.specs[task.spec_hash].lacks_values

        many = [task.spec_hash] * (MOST_AT_ONCE + 1)
        line.say(specs_request=pb.SpecsRequest(hashes=many))  # not answered
        running = pb.TaskStatus(id=task.id, state=pb.TASK_STATE_RUNNING, healthy=True)
        line.say(report=pb.Report(tasks=[running], number=5))
        assert (await line.hear("report_taken")).report_taken.number == 5
        (row,) = cluster.core.store.state.find(TASKS, "id", task.id)
        assert row.observed.state is TaskState.RUNNING, "what is acknowledged is committed"
        found = await asked(line, task.spec_hash)
        assert PLANTED.encode() not in found.SerializeToString()
        assert found.specs[task.spec_hash].lacks_values


async def test_a_worker_that_does_not_fetch_specs_is_sent_them_cl_35(cluster: InProcess) -> None:
    await a_node(cluster, "older")
    async with a_line(cluster, "older", runtimes=["docker"]) as (line, _):
        await line.hear("assignments")
        await cluster.worker.kill()
        body = {"name": "own", "placement": {"node": "node older"}}
        await cluster.deploy(body, wait="false")
        listed = (await line.hear("assignments")).assignments
        (task,) = listed.tasks
        assert listed.specs[task.spec_hash].image == "app:1"
