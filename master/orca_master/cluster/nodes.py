"""The endpoints of single nodes: drain, labels, removal; and what a node looks like from outside."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from msgspec.structs import replace
from pydantic import Field, StringConstraints

from orca_common.env import Env
from orca_master.audit.operations import trail
from orca_master.cluster import operations
from orca_master.cluster.answers import AmountsOut, DrainingOut, DrainOut, LeftOut, NodeOut
from orca_master.cluster.model import NODES, Node, NodeState
from orca_master.cluster.port import Work
from orca_master.cluster.presence import Presence
from orca_master.errors import Conflict
from orca_master.http.answers import Ok
from orca_master.http.dialects import CLUSTER
from orca_master.http.route import Call, NoQuery, QueryModel, Route, StrictModel
from orca_master.identity.model import Permission
from orca_master.state.rows import State
from orca_master.state.store import Store
from orca_master.state.transaction import Transaction

MOST_LEFT = 50
LABEL = r"^[A-Za-z0-9]([A-Za-z0-9._/-]{0,98}[A-Za-z0-9])?$"
LABEL_VALUE = r"^[A-Za-z0-9]([A-Za-z0-9._:/-]{0,98}[A-Za-z0-9])?$"

LabelKey = Annotated[str, StringConstraints(pattern=LABEL)]
LabelValue = Annotated[str, StringConstraints(pattern=LABEL_VALUE)]


class DrainQuery(QueryModel):
    """What cannot go elsewhere stays, unless one of these says otherwise."""

    deadline: Annotated[
        float | None,
        Field(ge=1, le=7 * 86400, description="Seconds: what is left then is stopped."),
    ] = None
    force: Annotated[bool, Field(description="Stop all of it now, and replace it after.")] = False


class LabelsIn(StrictModel):
    """Null takes a label away."""

    labels: Annotated[dict[LabelKey, LabelValue | None], Field(max_length=100)]


DISK_FULL = "it has a full disk, and gets nothing new until there is room"


class RemoveNodeQuery(QueryModel):
    force: Annotated[bool, Field(description="Also while something runs there.")] = False


class NodesShown:
    """Nodes as `cluster/info` shows them."""

    def __init__(self, env: Env, presence: Presence, work: Work) -> None:
        self._env = env
        self._presence = presence
        self.work = work

    def shown(self, state: State, node: Node) -> NodeOut:
        word, since, reason = self._standing(state, node)
        used, facts = self._presence.used(node.id), node.facts
        left = self.work.left(state, node.id)
        draining = None
        if not node.schedulable:
            draining = DrainingOut(
                state="draining" if left else "drained",
                since=node.drained_at,
                deadline=node.drain_deadline or None,
                left=[
                    LeftOut(each.project, each.name, each.replica, each.reason or None)
                    for each in left[:MOST_LEFT]
                ],
            )
        return NodeOut(
            id=node.id,
            name=node.name,
            state=word,
            state_since=since,
            reason=reason or (DISK_FULL if node.disk_full else None),
            connected=self._presence.is_connected(node.id),
            schedulable=node.schedulable,
            drain=draining,
            tasks=len(left),
            labels=facts.labels | node.labels,
            address=facts.address,
            runtimes=list(facts.runtimes),
            capacity=AmountsOut(facts.memory_bytes, facts.cpu_millis / 1000),
            used=AmountsOut(used.memory_bytes, used.cpu_millis / 1000),
            version=facts.version,
            os=facts.os,
            architecture=facts.architecture,
        )

    def _standing(self, state: State, node: Node) -> tuple[str, float, str]:
        """What the row says, or what the silence of a node that is ready means so far."""
        if node.state is NodeState.READY:
            found = self._presence.standing(node.id, nodes=state.count(NODES))
            if found.age is not None:
                return str(found.word), self._env.now() - found.age, found.reason
        return str(node.state), node.state_since, node.state_reason


@dataclass(frozen=True, slots=True)
class NodeRoutes:
    env: Env
    store: Store
    nodes: NodesShown

    def table(self) -> list[Route]:
        route = partial(Route, dialect=CLUSTER, tag="cluster")
        node = "/api/v1/cluster/nodes/{id}"
        return [
            route(
                f"POST {node}/drain",
                Permission.NODES_WRITE,
                self.drain,
                "Bring a node's work away and give it none any more",
                query=DrainQuery,
                answer=DrainOut,
            ),
            route(
                f"POST {node}/undrain",
                Permission.NODES_WRITE,
                self.undrain,
                "Let a node take work again",
                answer=DrainOut,
            ),
            route(
                f"PUT {node}/labels",
                Permission.NODES_WRITE,
                self.label,
                "Change some of a node's labels",
                body=LabelsIn,
                answer=NodeOut,
                example={"labels": {"disk": "ssd", "zone": None}},
            ),
            route(
                f"DELETE {node}",
                Permission.NODES_WRITE,
                self.remove,
                "Remove a node; its certificate is worth nothing any more",
                query=RemoveNodeQuery,
                answer=Ok,
            ),
        ]

    async def drain(self, call: Call[DrainQuery, None]) -> DrainOut:
        """Answers once it is wanted so, durably; the work goes while the caller does other things."""
        query, now = call.query, self.env.now()
        until = now if query.force else now + query.deadline if query.deadline else 0.0

        def drain(tx: Transaction) -> str:
            before = operations.find_node(tx, call.path["id"])
            node = operations.drain(tx, before, deadline=until, now=now)
            if node != before:
                wanted = {"force": True} if query.force else {"deadline": query.deadline}
                self._note(tx, call.actor, "drain", node, **wanted)
            return node.id

        return self._answer("drained", await self.store.update(drain))

    async def undrain(self, call: Call[NoQuery, None]) -> DrainOut:
        def undrain(tx: Transaction) -> str:
            before = operations.find_node(tx, call.path["id"])
            if operations.undrain(tx, before) != before:
                self._note(tx, call.actor, "undrain", before)
            return before.id

        return self._answer("undrained", await self.store.update(undrain))

    def _answer(self, status: Literal["drained", "undrained"], node_id: str) -> DrainOut:
        return DrainOut(status, self._shown(node_id))

    def _shown(self, node_id: str) -> NodeOut:
        state = self.store.state
        node = operations.find_node(state, node_id)
        return self.nodes.shown(state, node)

    async def label(self, call: Call[NoQuery, LabelsIn]) -> NodeOut:
        changes = call.body.labels

        def label(tx: Transaction) -> str:
            node = operations.find_node(tx, call.path["id"])
            kept = {key: value for key, value in node.labels.items() if key not in changes}
            given = {key: value for key, value in changes.items() if value is not None}
            if kept | given != node.labels:
                tx.put(NODES, replace(node, labels=kept | given))
                self._note(tx, call.actor, "label", node, **changes)
            return node.id

        return self._shown(await self.store.update(label))

    async def remove(self, call: Call[RemoveNodeQuery, None]) -> Ok:
        """Its worker stops what it runs and ends as soon as it hears of it."""

        def remove(tx: Transaction) -> str:
            node = operations.find_node(tx, call.path["id"])
            left = len(self.nodes.work.left(tx, node.id))
            if left and not call.query.force:
                raise Conflict(
                    f"{node.name} has {left} replica{'s' if left > 1 else ''}: bring them away first"
                    f" (`orca nodes drain {node.name} --wait`), or insist with --force"
                )
            self.nodes.work.forget(tx, node.id)
            operations.remove_node(tx, node, now=self.env.now())
            self._note(tx, call.actor, "remove", node, replicas=left)
            return node.name

        return Ok(f"removed node {await self.store.update(remove)}")

    def _note(self, tx: Transaction, actor: str, verb: str, node: Node, **details: object) -> None:
        resource, now = f"nodes/{node.name}", self.env.now()
        known = {key: value for key, value in details.items() if value is not None}
        trail(tx, actor=actor, action=f"node.{verb}", resource=resource, now=now, **known)
