"""What can be done with the cluster's nodes."""

import base64
from collections.abc import Mapping
from types import MappingProxyType

from msgspec.structs import replace

from orca_master.cluster.model import (
    CLUSTER,
    JOIN_GRANTS,
    MASTERS,
    NODES,
    REMOVED_NODES,
    Cluster,
    JoinGrant,
    Node,
    NodeFacts,
    NodeState,
    RemovedNode,
)
from orca_master.errors import Conflict, Forbidden, NotFound
from orca_master.state.transaction import Transaction, View
from orca_proto import join
from orca_proto.identity import NodeRole

REMEMBER_REMOVED_SECONDS = 400 * 86400.0
"""Longer than any certificate lasts."""


def found_cluster(tx: Transaction, *, id: str, name: str, now: float, schema: int = 1) -> Cluster:
    """Make the cluster's row at the first start; later starts find it."""
    cluster = tx.get(CLUSTER, "cluster")
    if cluster is None:
        cluster = Cluster(id=id, name=name, epoch=1, created_at=now, schema=schema)
        tx.put(CLUSTER, cluster)
    return cluster


def the_cluster(view: View) -> Cluster:
    cluster = view.get(CLUSTER, "cluster")
    if cluster is None:
        raise NotFound("cluster", "this one")
    return cluster


def masters_for_workers(view: View) -> list[str]:
    """Where workers reach the masters, `host:port`."""
    return [master.workers for master in view.scan(MASTERS) if master.workers]


def find_node(view: View, name_or_id: str) -> Node:
    """A node by its id or its exact name. Raises NotFound."""
    node = view.get(NODES, name_or_id)
    if node is not None:
        return node
    named = view.find(NODES, "name", name_or_id)
    if not named:
        raise NotFound("node", name_or_id)
    return named[0]


def grant_join(
    tx: Transaction,
    *,
    public_key: str,
    ttl_seconds: float,
    uses: int,
    now: float,
    role: NodeRole = NodeRole.WORKER,
    labels: Mapping[str, str] = MappingProxyType({}),
) -> JoinGrant:
    for grant in list(tx.scan(JOIN_GRANTS)):
        if grant.expires_at <= now:
            tx.delete(JOIN_GRANTS, grant.public_key)
    grant = JoinGrant(
        public_key=public_key,
        expires_at=now + ttl_seconds,
        uses_left=uses,
        created_at=now,
        role=str(role),
        labels=dict(labels),
    )
    tx.put(JOIN_GRANTS, grant)
    return grant


def use_grant(
    tx: Transaction,
    *,
    public_key: str,
    signature: str,
    name: str,
    request: bytes,
    now: float,
    role: NodeRole,
) -> JoinGrant:
    """Use a join token up, once: who holds it signed this request (DER) for this name and role.

    `signature` is base64. Raises Forbidden with the reason.
    """
    command = "orca masters token" if role is NodeRole.MASTER else "orca nodes token"
    grant = tx.get(JOIN_GRANTS, public_key)
    if grant is None:
        raise Forbidden(
            "the join token is not known here: it was used up, or made by another cluster;"
            f" make a new one with `{command}`"
        )
    if grant.role != role:
        raise Forbidden(
            f"the join token lets a {grant.role} join, not a {role}: make one with `{command}`"
        )
    if grant.expires_at <= now:
        raise Forbidden(f"the join token has expired: make a new one with `{command}`")
    if not _is_signed(public_key, signature, name, request, role):
        raise Forbidden("the request is not signed with the join token")
    if grant.uses_left <= 1:
        tx.delete(JOIN_GRANTS, public_key)
    else:
        tx.put(JOIN_GRANTS, replace(grant, uses_left=grant.uses_left - 1))
    return grant


def _is_signed(public_key: str, signature: str, name: str, request: bytes, role: NodeRole) -> bool:
    try:
        return join.verify(public_key, base64.b64decode(signature), name, request, role)
    except ValueError:
        return False


def enrol(
    tx: Transaction,
    *,
    public_key: str,
    signature: str,
    name: str,
    request: bytes,
    key: str,
    now: float,
    new_id: str,
) -> Node:
    """Let the holder of a join token in, as a new node with this name, and use the token up.

    `request` is the DER certificate request, `key` tells its public key, `signature` is base64. Who
    asks again with the same key and token, because the answer was lost, is the same node; so is who
    comes with the same key and another token, because its certificate has expired. Raises Forbidden
    with the reason, or Conflict when the name is taken.
    """
    named = next(iter(tx.find(NODES, "name", name)), None)
    is_known = named is not None and named.enrolled == key
    if named is not None and is_known and named.token == public_key:
        signed = _is_signed(public_key, signature, name, request, NodeRole.WORKER)
        if signed and now < named.token_expires_at:
            return named
    grant = use_grant(
        tx,
        public_key=public_key,
        signature=signature,
        name=name,
        request=request,
        now=now,
        role=NodeRole.WORKER,
    )
    if named is not None and not is_known:
        raise Conflict(
            f"a node named {name} exists already: choose another name,"
            " or remove the old one with `orca nodes rm`"
        )
    node = named or Node(id=new_id, name=name, joined_at=now, state_since=now, enrolled=key)
    node = replace(
        node,
        token=public_key,
        token_expires_at=grant.expires_at,
        labels=node.labels | grant.labels,
    )
    tx.put(NODES, node)
    return node


def node_connected(tx: Transaction, node_id: str, *, facts: NodeFacts, now: float) -> Node:
    """The node's worker has opened its stream. Raises Forbidden for a node that was removed."""
    node = tx.get(NODES, node_id)
    if node is None:
        raise Forbidden("this node is not known here: it belongs to another cluster's state")
    if node.state is not NodeState.READY:
        node = replace(node, state=NodeState.READY, state_since=now, state_reason="")
    tx.put(NODES, replace(node, facts=facts))
    return node


def mark_disk(tx: Transaction, node_id: str, *, full: bool) -> None:
    """What its worker has said of its disk."""
    node = tx.get(NODES, node_id)
    if node is not None and node.disk_full != full:
        tx.put(NODES, replace(node, disk_full=full))


def mark_down(tx: Transaction, node_id: str, *, reason: str, now: float) -> None:
    node = tx.get(NODES, node_id)
    if node is not None and node.state is NodeState.READY:
        tx.put(NODES, replace(node, state=NodeState.DOWN, state_since=now, state_reason=reason))


def drain(tx: Transaction, node: Node, *, deadline: float, now: float) -> Node:
    """Give the node no work any more, and stop what is left at the deadline (Unix seconds; 0: never).
    What is so already stays."""
    since = node.drained_at if not node.schedulable else now
    drained = replace(node, schedulable=False, drained_at=since, drain_deadline=deadline)
    if drained != node:
        tx.put(NODES, drained)
    return drained


def undrain(tx: Transaction, node: Node) -> Node:
    """Let it take work again. What is so already stays."""
    if node.schedulable:
        return node
    free = replace(node, schedulable=True, drained_at=0.0, drain_deadline=0.0)
    tx.put(NODES, free)
    return free


def remove_node(tx: Transaction, node: Node, *, now: float) -> None:
    """Forget the node; its certificate is refused for as long as it lasts."""
    for removed in list(tx.scan(REMOVED_NODES)):
        if now - removed.removed_at > REMEMBER_REMOVED_SECONDS:
            tx.delete(REMOVED_NODES, removed.id)
    tx.put(REMOVED_NODES, RemovedNode(node.id, node.name, removed_at=now))
    tx.delete(NODES, node.id)


def is_removed(view: View, node_id: str) -> bool:
    """Whether this was a node of the cluster; an id that never was one is not."""
    return view.get(REMOVED_NODES, node_id) is not None


def drained_nodes(view: View) -> frozenset[str]:
    """Ids of the nodes from which work is to go away."""
    return frozenset(node.id for node in view.scan(NODES) if not node.schedulable)


def overdue_nodes(view: View, now: float) -> frozenset[str]:
    """Ids of the drained nodes whose deadline has come."""
    return frozenset(
        node.id
        for node in view.scan(NODES)
        if not node.schedulable and 0 < node.drain_deadline <= now
    )


def next_deadline(view: View, now: float) -> float | None:
    """When the next drained node is overdue, Unix seconds."""
    coming = (n.drain_deadline for n in view.scan(NODES) if n.drain_deadline > now)
    return min(coming, default=None)


def down_nodes(view: View) -> frozenset[str]:
    """Ids of the nodes that are down: what was last heard of their tasks is no longer true."""
    return frozenset(node.id for node in view.scan(NODES) if node.state is NodeState.DOWN)
