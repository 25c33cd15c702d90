"""What no honest worker does, and what a master makes of it: ignored, logged, and once in the trail."""

from collections.abc import Sequence

from orca_common.env import Env
from orca_common.logs import get_logger
from orca_master.audit.operations import trail
from orca_master.cluster.model import NODES
from orca_master.errors import Forbidden
from orca_master.state.store import Store
from orca_master.state.transaction import Transaction
from orca_master.tasks.operations import by_id
from orca_proto import worker_pb2 as pb

INSTANCES = 8
"""Of one node's workers, the last ones, that are remembered."""
CLONED = (
    "another worker that was started later shows this node's certificate: this machine is a copy of"
    " another one. Stop what runs here (orca-worker --clear), then join with a new token, in a new folder"
)

log = get_logger("dispatcher")


class Suspicion:
    """One master's memory; a new leader begins with none, and finds out again."""

    def __init__(self, env: Env, store: Store) -> None:
        self._env = env
        self._store = store
        self._instances: dict[str, list[str]] = {}
        self._told: set[tuple[str, str]] = set()

    async def check_instance(self, node_id: str, instance: str) -> None:
        """The worker that was started last is the node; one that was there before comes back only when
        there are two. Raises Forbidden for that one."""
        if not instance:
            return
        seen = self._instances.setdefault(node_id, [])
        if instance in seen[:-1]:
            await self._tell(node_id, instance, "node.cloned", reason=CLONED)
            raise Forbidden(CLONED)
        if instance not in seen:
            seen.append(instance)
            del seen[:-INSTANCES]

    async def own(self, node_id: str, statuses: Sequence[pb.TaskStatus]) -> list[pb.TaskStatus]:
        """Without those of other nodes' tasks."""
        state = self._store.state
        foreign = set()
        for status in statuses:
            task = by_id(state, status.id)
            if task is not None and task.node != node_id:
                foreign.add(status.id)
        if foreign:
            some = ", ".join(sorted(foreign)[:3])
            await self._tell(node_id, "", "node.foreign-report", tasks=some, count=len(foreign))
        return [status for status in statuses if status.id not in foreign]

    async def _tell(self, node_id: str, instance: str, action: str, **details: object) -> None:
        node = self._store.state.get(NODES, node_id)
        name = node.name if node is not None else node_id
        log.error("a worker is not to be trusted", node=name, suspicion=action, **details)
        if (node_id, action + instance) in self._told:
            return
        self._told.add((node_id, action + instance))

        def tell(tx: Transaction) -> None:
            now, resource = self._env.now(), f"nodes/{name}"
            trail(tx, actor=f"node {name}", action=action, resource=resource, now=now, **details)

        await self._store.update(tell)
