"""The endpoints of the cluster: what it is made of, and how a worker joins it."""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from pydantic import Field

from orca_common.env import Env
from orca_master.audit.operations import trail
from orca_master.cluster import operations, pki
from orca_master.cluster.answers import (
    CaOut,
    ClusterOut,
    EnrolledOut,
    EvictedOut,
    GrantOut,
    LeaderOut,
    TrustedOut,
)
from orca_master.cluster.authority.operations import the_authority, the_rotation
from orca_master.cluster.liveness import Liveness
from orca_master.cluster.masters.port import Membership
from orca_master.cluster.masters.routes import describe
from orca_master.cluster.model import NODES, JoinGrant, Node
from orca_master.cluster.nodes import LabelKey, LabelValue, NodesShown
from orca_master.cluster.refusals import Refusals
from orca_master.errors import Forbidden, Invalid, Problem
from orca_master.http.dialects import CLUSTER
from orca_master.http.names import Name
from orca_master.http.rates import Rate
from orca_master.http.route import Call, NoQuery, Open, Reply, Route, Served, StrictModel
from orca_master.identity.model import Permission
from orca_master.state.store import Store
from orca_master.state.transaction import Transaction
from orca_proto.identity import NodeRole
from orca_proto.join import JoinToken


class GrantIn(StrictModel):
    """`ttl` in seconds; `labels` are given to the nodes that join with it, not to masters."""

    role: Literal["worker", "master"] = "worker"
    ttl: Annotated[float, Field(ge=1, le=7 * 86400)] = 3600.0
    uses: Annotated[int, Field(ge=1, le=1000)] = 1
    labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=100, default_factory=dict)]


class EnrolIn(StrictModel):
    """`request`: PKCS #10 in DER, base64; `signature`: by the join token's key, base64."""

    name: Name
    token: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    request: Annotated[str, Field(max_length=8192)]
    signature: Annotated[str, Field(max_length=128)]


EXAMPLE = {
    "name": "worker-2",
    "token": "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
    "request": "MIHEMGsCAQAwADBZ",
    "signature": "kqAJqfDUyriQBkGW",
}
"""Cut short: a join token signs each request."""


@dataclass(frozen=True, slots=True)
class ClusterRoutes:
    env: Env
    store: Store
    nodes: NodesShown
    liveness: Liveness
    membership: Membership
    signer: Callable[[], pki.Signer]
    version: str
    refusals: Refusals

    def table(self) -> list[Route]:
        route = partial(Route, dialect=CLUSTER, tag="cluster")
        return [
            route(
                "GET /api/v1/cluster/info",
                Permission.CLUSTER_READ,
                self.info,
                "Masters and nodes",
                answer=ClusterOut,
            ),
            route(
                "POST /api/v1/cluster/evictions/resume",
                Permission.NODES_WRITE,
                self.evict,
                "Give up the nodes that were lost at once and are held",
                answer=EvictedOut,
            ),
            route(
                "POST /api/v1/cluster/join-tokens",
                Permission.NODES_WRITE,
                self.grant,
                "Make a token with which a worker or a master can join",
                statuses=(201,),
                body=GrantIn,
                answer=GrantOut,
                example={"role": "worker", "ttl": 3600.0, "uses": 1, "labels": {"disk": "ssd"}},
            ),
            route(
                "GET /api/v1/cluster/ca",
                Open.PUBLIC,
                self.ca,
                "The cluster's CA certificate",
                answer=CaOut,
                served=Served.HERE,
            ),
            route(
                "POST /api/v1/cluster/enroll",
                Open.SIGNED,
                self.enrol,
                "Join as a worker",
                statuses=(201,),
                body=EnrolIn,
                answer=EnrolledOut,
                example=EXAMPLE,
                rate=Rate.JOIN,
            ),
        ]

    async def info(self, call: Call[NoQuery, None]) -> ClusterOut:
        state = await self.store.fresh()
        cluster = operations.the_cluster(state)
        nodes = sorted(state.scan(NODES), key=lambda node: node.name)
        masters = describe(self.store, state, self.membership.members())
        leader = next((m for m in masters if m.role == "leader"), None)
        return ClusterOut(
            cluster_name=cluster.name,
            cluster_id=cluster.id,
            version=self.version,
            leader=None if leader is None else LeaderOut(leader.name, leader.api),
            masters=masters,
            nodes=[self.nodes.shown(state, node) for node in nodes],
            node_count=len(nodes),
        )

    async def evict(self, call: Call[NoQuery, None]) -> EvictedOut:
        """An operator knows that they are gone: their work is given to others."""
        reason = f"given up by {call.actor}, after many nodes were lost at once"

        def give_up(tx: Transaction) -> list[str]:
            nodes = self.liveness.give_up_held(tx, reason=reason)
            for node in nodes:
                self._note(tx, call.actor, "node.evict", f"nodes/{node.name}")
            return sorted(node.name for node in nodes)

        return EvictedOut(await self.store.update(give_up))

    async def grant(self, call: Call[NoQuery, GrantIn]) -> Reply:
        role = NodeRole(call.body.role)
        assert call.caller is not None
        if role is NodeRole.MASTER and not call.caller.may(Permission.MASTERS_WRITE):
            raise Forbidden(f"this token lacks the permission {Permission.MASTERS_WRITE}")
        if role is NodeRole.MASTER and call.body.labels:
            raise Invalid([Problem("labels", "are for workers: a master runs no tasks")])
        token = JoinToken(self.signer().fingerprint, self.env.random.token_bytes(32))

        def grant_join(tx: Transaction) -> JoinGrant:
            now = self.env.now()
            self._note(tx, call.actor, "join-token.create", f"join-tokens/{token.public_key[:8]}")
            return operations.grant_join(
                tx,
                public_key=token.public_key,
                ttl_seconds=call.body.ttl,
                uses=call.body.uses,
                now=now,
                role=role,
                labels=call.body.labels,
            )

        grant = await self.store.update(grant_join)
        return Reply(GrantOut(token.text(), grant.expires_at), 201)

    def _note(self, tx: Transaction, actor: str, action: str, resource: str) -> None:
        trail(tx, actor=actor, action=action, resource=resource, now=self.env.now())

    async def ca(self, call: Call[NoQuery, None]) -> CaOut:
        state = self.store.state
        signs, rotation = the_authority(state), the_rotation(state)
        both = []
        if rotation is not None:
            both = [
                (rotation.old.certificate, rotation.old_voucher),
                (rotation.new.certificate, rotation.new_voucher),
            ]
        return CaOut(
            certificate=signs.certificate.decode(),
            authorities=[
                TrustedOut(certificate.decode(), base64.b64encode(voucher).decode())
                for certificate, voucher in both
            ],
        )

    async def enrol(self, call: Call[NoQuery, EnrolIn]) -> Reply:
        body = call.body
        async with self.refusals.noted(NodeRole.WORKER, body.name, body.token):
            return await self._enrol(body)

    async def _enrol(self, body: EnrolIn) -> Reply:
        der, request = pki.request_of(body.request)
        new_id = self.env.new_id()

        def enrol(tx: Transaction) -> Node:
            known = tx.find(NODES, "name", body.name)
            node = operations.enrol(
                tx,
                public_key=body.token,
                signature=body.signature,
                name=body.name,
                request=der,
                key=pki.key_of(request),
                now=self.env.now(),
                new_id=new_id,
            )
            if node not in known:
                action = "node.join" if node.id == new_id else "node.rejoin"
                self._note(tx, f"token {body.token[:8]}", action, f"nodes/{node.name}")
            return node

        node = await self.store.update(enrol)
        signer = self.signer()  # now that it is waited for, if the authority is being replaced
        certificate = pki.issue_worker(self.env, signer, request, node.id)
        answer = EnrolledOut(
            node_id=node.id,
            cluster_id=signer.cluster,
            certificate=certificate.decode(),
            masters=operations.masters_for_workers(self.store.state),
        )
        return Reply(answer, 201)
