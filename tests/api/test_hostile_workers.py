"""Workers that lie, are copies, or talk rubbish: what they say changes nothing of anybody else's."""

import asyncio
import math
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from inprocess import InProcess, eventually
from orca_master.cluster.model import NODES, Node
from orca_master.errors import Forbidden
from orca_master.state.rows import State
from orca_master.tasks import wire
from orca_master.tasks.dispatcher import PROTOCOL
from orca_master.tasks.model import TASKS, Task
from orca_proto import worker_pb2 as pb


class Line:
    """A worker's stream as its master sees it; the test is the worker."""

    def __init__(self) -> None:
        self._up: asyncio.Queue[pb.FromWorker | None] = asyncio.Queue()
        self._down: asyncio.Queue[pb.FromMaster] = asyncio.Queue()

    async def send(self, message: pb.FromMaster) -> None:
        self._down.put_nowait(message)

    async def receive(self) -> pb.FromWorker | None:
        return await self._up.get()

    def say(self, **body: Any) -> None:
        self._up.put_nowait(pb.FromWorker(**body))

    def hang_up(self) -> None:
        self._up.put_nowait(None)

    async def hear(self, kind: str) -> pb.FromMaster:
        """The next message of this kind."""
        async with asyncio.timeout(60):
            while True:
                message = await self._down.get()
                if message.WhichOneof("body") == kind:
                    return message


@asynccontextmanager
async def a_line(
    cluster: InProcess, node_id: str, **hello: Any
) -> AsyncIterator[tuple[Line, asyncio.Task[None]]]:
    line = Line()
    line.say(hello=pb.Hello(**({"protocol": PROTOCOL, "name": "x"} | hello)))
    serving = asyncio.create_task(cluster.core.dispatcher.serve(node_id, line))
    try:
        yield line, serving
    finally:
        line.hang_up()
        await asyncio.wait({serving})
        if not serving.cancelled():
            serving.exception()


async def a_node(cluster: InProcess, id: str) -> None:
    await cluster.core.store.update(lambda tx: tx.put(NODES, Node(id, f"node {id}", 0.0)))


async def the_task(cluster: InProcess) -> Task:
    """Of a service that runs on the honest worker."""
    await cluster.deploy({"name": "web"})
    (task,) = cluster.core.store.state.scan(TASKS)
    return task


async def suspicions(cluster: InProcess) -> list[tuple[str, str]]:
    events = (await cluster.call("GET", "/api/v1/audit?limit=1000")).json["events"]
    watched = ("node.cloned", "node.foreign-report")
    return [(e["action"], e["resource"]) for e in events if e["action"] in watched]


async def test_what_is_said_of_another_nodes_task_is_ignored_and_noted_cl_16(
    cluster: InProcess,
) -> None:
    task = await the_task(cluster)
    await a_node(cluster, "liar")
    lie = pb.TaskStatus(id=task.id, state=pb.TASK_STATE_GONE)
    own = pb.TaskStatus(id="never heard of", state=pb.TASK_STATE_RUNNING)
    async with a_line(cluster, "liar", tasks=[lie, own]) as (line, _):
        await line.hear("welcome")
        for _ in range(5):
            line.say(report=pb.Report(tasks=[lie, own]))
        async with cluster.waiting():
            while not await suspicions(cluster):
                await asyncio.sleep(0.01)
        line.hang_up()
    assert await suspicions(cluster) == [("node.foreign-report", "nodes/node liar")], "once"
    assert (await cluster.status("web"))["running_replicas"] == 1
    assert [t.id for t in cluster.core.store.state.scan(TASKS)] == [task.id]


async def test_a_node_is_sent_the_secrets_of_its_own_tasks_only_cl_17(cluster: InProcess) -> None:
    planted = "planted-0c7d"
    await cluster.call("PUT", "/api/v1/secrets/KEY", {"value": planted})
    pinned = {"placement": {"node": cluster.worker.name}, "env": {"A": "${secrets.KEY}"}}
    await cluster.deploy({"name": "web"} | pinned)
    (task,) = cluster.core.store.state.scan(TASKS)
    (thing,) = cluster.worker.machine.things.values()
    assert thing.spec.secret_env["A"] == planted
    liar = Node("liar", "liar", 0.0)
    await cluster.core.store.update(lambda tx: tx.put(NODES, liar))
    claimed = pb.TaskStatus(id=task.id, state=pb.TASK_STATE_RUNNING)
    async with a_line(cluster, "liar", tasks=[claimed], runtimes=["docker"]) as (line, _):
        empty = await line.hear("assignments")
        assert (list(empty.assignments.tasks), dict(empty.assignments.specs)) == ([], {})
        own = {"placement": {"node": "liar"}, "name": "own", "env": {"A": "plain"}}
        await cluster.deploy(own, wait="false")
        listed = await line.hear("assignments")
        assert [each.service for each in listed.assignments.tasks] == ["own"]
        assert planted.encode() not in listed.SerializeToString()


async def test_a_certificate_opens_only_its_own_nodes_stream_cl_09(cluster: InProcess) -> None:
    """Whatever name the worker gives itself."""
    await a_node(cluster, "w2")
    before = cluster.core.store.state.get(NODES, cluster.worker.id)
    async with a_line(cluster, "w2", name=cluster.worker.name, address="evil") as (line, _):
        await line.hear("welcome")
        state = cluster.core.store.state
        assert state.get(NODES, cluster.worker.id) == before
        node = state.get(NODES, "w2")
        assert node is not None
        assert (node.name, node.facts.address) == ("node w2", "evil")


async def test_of_two_copies_of_a_node_the_one_that_was_started_last_is_it_cl_11(
    cluster: InProcess,
) -> None:
    await a_node(cluster, "twin")
    async with a_line(cluster, "twin", instance="first") as (first, ended):
        await first.hear("welcome")
        async with a_line(cluster, "twin", instance="second") as (second, _):
            await second.hear("welcome")
            async with asyncio.timeout(60):
                await ended  # the older stream is closed
            for _ in range(2):
                async with a_line(cluster, "twin", instance="first") as (_, refused):
                    with pytest.raises(Forbidden, match="this machine is a copy"):
                        await refused
            assert cluster.core.dispatcher.is_connected("twin")
            second.say(heartbeat=pb.Heartbeat())
    assert await suspicions(cluster) == [("node.cloned", "nodes/node twin")]
    async with a_line(cluster, "twin", instance="second") as (again, _):
        await again.hear("welcome")


async def test_a_removed_nodes_stream_is_closed_and_it_is_told_at_every_master_cl_12_cl_13(
    cluster: InProcess,
) -> None:
    await a_node(cluster, "gone")
    async with a_line(cluster, "gone") as (line, ended):
        await line.hear("welcome")  # and from now on it is silent
        assert (await cluster.call("DELETE", "/api/v1/cluster/nodes/gone")).status == 200
        async with asyncio.timeout(60):
            await ended
    for _ in range(2):
        async with a_line(cluster, "gone", tasks=[pb.TaskStatus(id="t")]) as (line, _):
            assert "was removed" in (await line.hear("removed")).removed.reason
    state: State = cluster.core.store.state
    assert state.get(NODES, "gone") is None


HUGE = 2**64 - 1


async def test_numbers_that_cannot_be_change_nothing_cl_19(cluster: InProcess) -> None:
    await a_node(cluster, "big")
    async with a_line(cluster, "big", capacity=pb.Resources(memory_bytes=1 << 30)) as (line, _):
        await line.hear("welcome")
        line.say(heartbeat=pb.Heartbeat(used=pb.Resources(memory_bytes=7, cpu_millis=8)))
        presence = cluster.core.presence
        await eventually(lambda: presence.used("big").memory_bytes == 7)
        line.say(heartbeat=pb.Heartbeat(used=pb.Resources(memory_bytes=HUGE, cpu_millis=HUGE)))
        line.say(heartbeat=pb.Heartbeat(used=pb.Resources(memory_bytes=7, cpu_millis=9)))
        await eventually(lambda: presence.used("big").cpu_millis == 9)
    before = cluster.core.store.state.get(NODES, "big")
    cases: list[dict[str, Any]] = [
        {"capacity": pb.Resources(memory_bytes=HUGE)},
        {"capacity": pb.Resources(cpu_millis=10**18)},
        {"labels": {f"k{number}": "v" for number in range(1000)}},
        {"version": "x" * 10_000},
        {"runtimes": ["docker"] * 1000},
        {"tasks": [pb.TaskStatus(id=str(number)) for number in range(wire.MOST_STATUSES + 1)]},
    ]
    for lie in cases:
        async with a_line(cluster, "big", **lie) as (_, refused):
            with pytest.raises(Forbidden, match="the worker "):
                await refused
    assert cluster.core.store.state.get(NODES, "big") == before


@pytest.mark.parametrize("lie", [math.nan, math.inf, -math.inf, -1.0, 1e300])
def test_times_that_cannot_be_are_no_times_cl_19(lie: float) -> None:
    said = pb.TaskStatus(
        id="t", started_at=lie, ended_at=lie, host_port=2**32 - 1, reason="x" * 10**6
    )
    _, found = wire.observed(said)
    assert (found.started_at, found.ended_at, found.host_port) == (0.0, 0.0, 0)
    assert len(found.reason) == wire.MOST_REASON


SEEDS = 300


async def test_messages_made_at_random_change_nothing_of_others_cl_21(cluster: InProcess) -> None:
    """Each is one that a master can read: fields changed, left out, unknown."""
    task = await the_task(cluster)
    await a_node(cluster, "fuzz")
    chance = random.Random(21)
    whole = pb.FromWorker(
        report=pb.Report(
            tasks=[
                pb.TaskStatus(id=task.id, state=pb.TASK_STATE_GONE, reason="r", container="c"),
                pb.TaskStatus(id="x", state=pb.TASK_STATE_RUNNING, started_at=1.0, host_port=80),
            ]
        )
    )
    others = [
        pb.FromWorker(heartbeat=pb.Heartbeat(used=pb.Resources(memory_bytes=1, cpu_millis=1))),
        pb.FromWorker(log_chunk=pb.LogChunk(request="r", data=b"d", done=True)),
        pb.FromWorker(hello=pb.Hello(protocol=PROTOCOL, name="again")),
        pb.FromWorker(),
    ]
    sent = 0
    async with a_line(cluster, "fuzz") as (line, serving):
        await line.hear("welcome")
        while sent < SEEDS:
            raw = bytearray(chance.choice([whole, *others]).SerializeToString())
            for _ in range(chance.randrange(4)):
                raw.insert(chance.randrange(len(raw) + 1), chance.randrange(256))
            if raw and chance.random() < 0.5:
                raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
            try:
                message = pb.FromWorker.FromString(bytes(raw))
            except Exception:  # not a message: the library never hands it on
                continue
            line._up.put_nowait(message)
            sent += 1
        line.say(heartbeat=pb.Heartbeat(used=pb.Resources(memory_bytes=4242)))
        presence = cluster.core.presence
        await eventually(lambda: presence.used("fuzz").memory_bytes == 4242)
        assert not serving.done()
    assert (await cluster.status("web"))["running_replicas"] == 1
    assert [t.id for t in cluster.core.store.state.scan(TASKS)] == [task.id]


async def test_a_worker_of_another_minor_version_is_welcome_cl_35(cluster: InProcess) -> None:
    """An older one says less; a newer one says more than this master knows."""
    await a_node(cluster, "old")
    async with a_line(cluster, "old", version="0.0.1") as (line, _):
        await line.hear("welcome")
    newer = pb.FromWorker(hello=pb.Hello(protocol=PROTOCOL, version="9.9.9")).SerializeToString()
    unknown = b"\xfa\x3f\x03abc"  # field 1023
    line = Line()
    line._up.put_nowait(pb.FromWorker.FromString(newer + unknown))
    serving = asyncio.create_task(cluster.core.dispatcher.serve("old", line))
    await line.hear("welcome")
    line._up.put_nowait(pb.FromWorker.FromString(unknown))
    line.say(heartbeat=pb.Heartbeat(used=pb.Resources(memory_bytes=5)))
    await eventually(lambda: cluster.core.presence.used("old").memory_bytes == 5)
    line.hang_up()
    await serving


async def test_a_node_without_work_is_told_so_once_that_is_confirmed(cluster: InProcess) -> None:
    await a_node(cluster, "idle")
    async with a_line(cluster, "idle") as (line, _):
        found = (await line.hear("assignments")).assignments
        assert (list(found.tasks), found.confirmed_empty) == ([], True)


async def test_an_empty_list_that_nobody_confirmed_stops_nothing(cluster: InProcess) -> None:
    """The honest worker, with a master that has lost its tasks."""
    await the_task(cluster)
    stream = cluster.worker._stream
    assert stream is not None
    term = cluster.core.store.leadership.term
    later = pb.Revision(epoch=1, term=term, version=cluster.core.store.state.version + 1)
    stream.down.put(pb.FromMaster(assignments=pb.Assignments(revision=later)))
    await asyncio.sleep(0.3)
    assert len(await cluster.worker.runtime.list()) == 1
    confirmed = pb.Assignments(revision=later, confirmed_empty=True)
    stream.down.put(pb.FromMaster(assignments=confirmed))
    async with cluster.waiting():
        while await cluster.worker.runtime.list():
            await asyncio.sleep(0.01)
