"""Nodes that are silent, as the API shows them; a mass loss, and its end by an operator."""

import asyncio

import pytest

from inprocess import InProcess, eventually
from orca_master.cluster.model import NODES, Node, NodeState
from orca_master.identity.model import Role
from orca_master.state.transaction import Transaction
from orca_proto import worker_pb2 as pb

RESUME = "/api/v1/cluster/evictions/resume"


async def lose(cluster: InProcess, count: int) -> list[str]:
    """Nodes that were ready, and of which this master has not heard since it leads."""
    nodes = [
        Node(id=f"{n:016x}", name=f"lost-{n}", joined_at=1.0, state=NodeState.READY)
        for n in range(100, 100 + count)
    ]

    def put(tx: Transaction) -> None:
        for node in nodes:
            tx.put(NODES, node)

    await cluster.core.store.update(put)
    return [node.name for node in nodes]


async def states(cluster: InProcess) -> dict[str, str]:
    info = (await cluster.call("GET", "/api/v1/cluster/info")).json
    return {node["name"]: node["state"] for node in info["nodes"]}


async def until_held(cluster: InProcess, count: int) -> None:
    async with asyncio.timeout(60):
        while len(cluster.core.liveness.held) != count:
            await asyncio.sleep(0.05)


async def test_a_worker_that_is_gone_is_disconnected_and_then_down_with_reasons_and_times(
    cluster: InProcess,
) -> None:
    await cluster.worker.kill()
    seen: dict[str, dict[str, object]] = {}
    async with asyncio.timeout(60):
        while "down" not in seen:
            (node,) = (await cluster.call("GET", "/api/v1/cluster/info")).json["nodes"]
            seen[node["state"]] = node
    assert list(seen) in (["disconnected", "down"], ["ready", "disconnected", "down"])
    gone, down = seen["disconnected"], seen["down"]
    assert str(gone["reason"]).startswith("its worker has had no connection for ")
    assert down["reason"] == "not heard of for 2 s"
    assert float(str(gone["state_since"])) < float(str(down["state_since"]))
    cluster.worker.start()
    async with asyncio.timeout(60):
        while await states(cluster) != {"node-1": "ready"}:
            await asyncio.sleep(0.05)


async def test_a_worker_that_hangs_is_suspect(cluster: InProcess) -> None:
    cluster.worker.set_cut(True)
    async with asyncio.timeout(60):
        while (await states(cluster))["node-1"] == "ready":
            await asyncio.sleep(0.02)
    assert (await states(cluster))["node-1"] in ("suspect", "down")
    cluster.worker.set_cut(False)
    async with asyncio.timeout(60):
        while (await states(cluster))["node-1"] != "ready":
            await asyncio.sleep(0.05)


async def test_a_mass_loss_is_held_told_and_ended_by_an_operator(cluster: InProcess) -> None:
    lost = await lose(cluster, 5)
    await until_held(cluster, 5)
    health = (await cluster.call("GET", "/api/v1/health")).json
    assert health["status"] == "degraded"
    (reason,) = health["reasons"]
    assert "5 nodes were lost at once (lost-100, " in reason
    assert "`orca nodes evict --confirm`" in reason
    assert "orca_evictions_held 5.0" in (await cluster.call("GET", "/metrics")).text
    assert set((await states(cluster)).values()) == {"ready", "disconnected"}
    answer = await cluster.call("POST", RESUME)
    assert (answer.status, answer.json) == (200, {"evicted": lost})
    assert await states(cluster) == dict.fromkeys(lost, "down") | {"node-1": "ready"}
    trail = (await cluster.call("GET", "/api/v1/audit?limit=5")).json["events"]
    assert {(e["action"], e["actor"]) for e in trail} == {("node.evict", "admin")}
    assert {e["resource"] for e in trail} == {f"nodes/{name}" for name in lost}
    await until_held(cluster, 0)
    assert (await cluster.call("POST", RESUME)).json == {"evicted": []}


class Talking:
    """A worker's stream that is told what to say."""

    def __init__(self) -> None:
        self.says: asyncio.Queue[pb.FromWorker | None] = asyncio.Queue()
        self.beats: list[float] = []

    async def send(self, message: pb.FromMaster) -> None:
        if message.WhichOneof("body") == "welcome":
            self.beats.append(message.welcome.heartbeat_seconds)

    async def receive(self) -> pb.FromWorker | None:
        return await self.says.get()


async def test_workers_are_told_to_speak_less_often_when_there_are_many(cluster: InProcess) -> None:
    await lose(cluster, 1)
    link = Talking()
    link.says.put_nowait(pb.FromWorker(hello=pb.Hello(protocol=1, name="lost-100")))
    serving = asyncio.ensure_future(cluster.core.dispatcher.serve(f"{100:016x}", link))
    await eventually(lambda: link.beats == [0.5])
    await lose(cluster, 998)
    for _ in range(2):
        link.says.put_nowait(pb.FromWorker(heartbeat=pb.Heartbeat()))
    await eventually(lambda: link.beats == [0.5, 1.0])
    link.says.put_nowait(None)
    await serving


async def test_a_few_are_given_up_without_asking(cluster: InProcess) -> None:
    lost = await lose(cluster, 3)
    async with asyncio.timeout(60):
        while await states(cluster) != dict.fromkeys(lost, "down") | {"node-1": "ready"}:
            await asyncio.sleep(0.05)
    assert cluster.core.liveness.held == ()


@pytest.mark.parametrize("role", [Role.VIEWER, Role.DEPLOYER])
async def test_only_admins_give_nodes_up(cluster: InProcess, role: Role) -> None:
    token = await cluster.add_token(role)
    assert (await cluster.call("POST", RESUME, token=token)).status == 403


async def test_reconnect_is_one_of_three_words_and_its_change_restarts_nothing(
    cluster: InProcess,
) -> None:
    answer = await cluster.deploy({"name": "web", "reconnect": "newest"})
    assert answer.status == 400
    assert [p["field"] for p in answer.json["problems"]] == ["services.0.reconnect"]
    await cluster.deploy({"name": "web"})
    before = await cluster.status("web")
    assert (await cluster.deploy({"name": "web", "reconnect": "keep_original"})).status == 200
    after = await cluster.status("web")
    assert after["revision"] == before["revision"]
    assert [t["id"] for t in after["tasks"]] == [t["id"] for t in before["tasks"]]
