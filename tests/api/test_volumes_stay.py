"""A replica with volumes stays on the node that has them."""

from inprocess import InProcess, eventually, second_node
from orca_master.tasks.model import HOMES, TASKS

SERVICE = {"name": "db", "replicas": 2, "volumes": [{"name": "data", "target": "/data"}]}


def where(cluster: InProcess) -> dict[int, str]:
    tasks = cluster.core.store.state.scan(TASKS)
    return {task.slot: task.node for task in tasks if task.is_ready}


async def test_each_replica_stays_where_its_volumes_are(cluster: InProcess) -> None:
    other = await second_node(cluster)
    try:
        assert (await cluster.deploy(SERVICE)).status == 200
        before = where(cluster)
        assert set(before.values()) == {cluster.worker.id, other.id}
        slot = next(slot for slot, node in before.items() if node == other.id)
        drained = f"/api/v1/cluster/nodes/{other.name}"
        await cluster.call("POST", f"{drained}/drain", params={"force": "true"})
        async with cluster.waiting():
            reason = f"its volumes are on node {other.name}: is drained"
            while True:
                status = await cluster.status("db")
                if any(t["replica"] == slot and t["reason"] == reason for t in status["tasks"]):
                    break
        await eventually(lambda: set(where(cluster).values()) == {cluster.worker.id})
        await cluster.call("POST", f"{drained}/undrain")
        await cluster.until("db", running_replicas=2)
        assert where(cluster) == before
        await cluster.call("POST", "/api/v1/services/db/scale", {"replicas": 0})
        await cluster.until("db", running_replicas=0)
        await cluster.call("POST", "/api/v1/services/db/scale", {"replicas": 2})
        await cluster.until("db", running_replicas=2)
        assert where(cluster) == before
    finally:
        await other.kill()


async def test_it_waits_for_a_node_that_is_lost(cluster: InProcess) -> None:
    """Not fenced here, so that it would be replaced at once if it could."""
    other = await second_node(cluster)
    try:
        assert (await cluster.deploy(SERVICE | {"fence": False})).status == 200
        before = where(cluster)
        await other.kill()
        async with cluster.waiting():
            reason = f"its volumes are on node {other.name}: is down"
            while not any(t["reason"] == reason for t in (await cluster.status("db"))["tasks"]):
                pass
        other.start()
        await cluster.until("db", running_replicas=2)
        assert where(cluster) == before
    finally:
        await other.kill()


async def test_a_purged_service_or_a_removed_node_gives_them_up(cluster: InProcess) -> None:
    other = await second_node(cluster)
    state = cluster.core.store
    try:
        await cluster.deploy(SERVICE)
        path = f"/api/v1/cluster/nodes/{other.name}"
        await cluster.call("DELETE", path, params={"force": "true"})
        await cluster.until("db", running_replicas=2)
        assert set(where(cluster).values()) == {cluster.worker.id}
        assert {home.node for home in state.state.scan(HOMES)} == {cluster.worker.id}
        await cluster.call("DELETE", "/api/v1/services/db?purge=true")
        await eventually(lambda: state.state.count(HOMES) == 0)
    finally:
        await other.kill()
