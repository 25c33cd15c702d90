"""The endpoints of masters: joining, leaving, who leads; and what masters ask each other."""

import asyncio
import base64
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from pydantic import Field

from orca_common.env import Env
from orca_master.audit.operations import trail
from orca_master.cluster import pki
from orca_master.cluster.masters import operations
from orca_master.cluster.masters.answers import (
    EnrolledMasterOut,
    LedByOut,
    MasterOut,
    MastersOut,
)
from orca_master.cluster.masters.port import Member, Membership
from orca_master.cluster.model import MASTERS, Master
from orca_master.cluster.refusals import Refusals
from orca_master.errors import Forbidden, NotFound, NotLeader, NotReady
from orca_master.http.answers import Ok
from orca_master.http.dialects import CLUSTER
from orca_master.http.names import Name
from orca_master.http.rates import Rate
from orca_master.http.route import (
    Call,
    NoQuery,
    Open,
    QueryModel,
    Reply,
    Route,
    Served,
    StrictModel,
)
from orca_master.identity.model import Permission
from orca_master.identity.wrapping.keyring import Keyring
from orca_master.state.rows import State
from orca_master.state.store import Store
from orca_master.state.transaction import Transaction
from orca_proto.identity import NodeRole

LEAVE_SECONDS = 10.0
LEADER_SECONDS = 5.0

Address = Annotated[str, Field(pattern=r"^[^\s/@]{1,253}:[0-9]{1,5}$")]
"""`host:port`."""


class EnrolMasterIn(StrictModel):
    """`request`: PKCS #10 in DER, base64; `signature`: by the join token's key, base64."""

    name: Name
    peers: Address
    token: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    request: Annotated[str, Field(max_length=8192)]
    signature: Annotated[str, Field(max_length=128)]


EXAMPLE = {
    "name": "master-2",
    "peers": "10.0.0.2:6882",
    "token": "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
    "request": "MIHEMGsCAQAwADBZ",
    "signature": "kqAJqfDUyriQBkGW",
}
"""Cut short: a join token signs each request."""


class RegisterIn(StrictModel):
    """Where a master is reached, and what it is."""

    peers: Address
    api: Annotated[str, Field(max_length=300)]
    workers: Address
    version: Annotated[str, Field(max_length=100)]
    schema_version: Annotated[int, Field(ge=1)]


class RemoveQuery(QueryModel):
    force: bool = False


class TransferQuery(QueryModel):
    to: str | None = None


@dataclass(frozen=True, slots=True)
class MasterRoutes:
    """What is in `keyring` is handed to masters only, on the port between masters."""

    env: Env
    store: Store
    membership: Membership
    signer: Callable[[], pki.Signer]
    keyring: Keyring
    refusals: Refusals

    def table(self) -> list[Route]:
        route = partial(Route, dialect=CLUSTER, tag="masters")
        masters = "/api/v1/cluster/masters"
        return [
            route(
                f"GET {masters}",
                Permission.CLUSTER_READ,
                self.list,
                "The masters, who leads, and how far each is",
                answer=MastersOut,
                served=Served.HERE_OR_LEADER,
            ),
            route(
                f"POST {masters}/enroll",
                Open.SIGNED,
                self.enrol,
                "Join as a master",
                statuses=(201,),
                body=EnrolMasterIn,
                answer=EnrolledMasterOut,
                example=EXAMPLE,
                rate=Rate.JOIN,
            ),
            route(
                f"POST {masters}/transfer",
                Permission.MASTERS_WRITE,
                self.transfer,
                "Let another master lead",
                query=TransferQuery,
                answer=LedByOut,
                refusals=(NotFound,),
            ),
            route(
                f"DELETE {masters}/{{name}}",
                Permission.MASTERS_WRITE,
                self.remove,
                "Remove a master",
                answer=Ok,
                query=RemoveQuery,
            ),
            route(
                "GET /internal/v1/keys",
                Open.MASTERS,
                self.keys,
                "The keys that open the cluster's keys",
                served=Served.HERE,
            ),
            route(
                "PUT /internal/v1/masters/{id}",
                Open.MASTERS,
                self.register,
                "A master tells where it is reached",
                body=RegisterIn,
            ),
        ]

    async def list(self, call: Call[NoQuery, None]) -> MastersOut:
        state = await self.store.read(stale=call.stale)
        members = self.membership.members()
        voters = [member for member in members if member.is_voter]
        return MastersOut(
            masters=describe(self.store, state, members),
            term=self.store.leadership.term,
            voters=len(voters),
            tolerates=operations.tolerates(voters),
        )

    async def enrol(self, call: Call[NoQuery, EnrolMasterIn]) -> Reply:
        body = call.body
        async with self.refusals.noted(NodeRole.MASTER, body.name, body.token):
            return await self._enrol(body)

    async def _enrol(self, body: EnrolMasterIn) -> Reply:
        der, request = pki.request_of(body.request)
        new_id = self.env.new_id()

        def enrol(tx: Transaction) -> Master:
            master = operations.enrol_master(
                tx,
                public_key=body.token,
                signature=body.signature,
                name=body.name,
                peers=body.peers,
                request=der,
                key=pki.key_of(request),
                now=self.env.now(),
                new_id=new_id,
            )
            if master.id == new_id:
                self._note(tx, f"token {body.token[:8]}", "join", master)
            return master

        master = await self.store.update(enrol)
        others = [m for m in self.store.state.scan(MASTERS) if m.id != master.id]
        signer = self.signer()  # now that it is waited for, if the authority is being replaced
        answer = EnrolledMasterOut(
            id=master.id,
            cluster_id=signer.cluster,
            certificate=pki.sign_master(self.env, signer, request, master.id).decode(),
            masters={other.id: other.peers for other in others},
        )
        return Reply(answer, 201)

    async def remove(self, call: Call[RemoveQuery, None]) -> Ok:
        state = await self.store.fresh()
        master = operations.find_master(state, call.path["name"])
        members = self.membership.members()
        operations.check_removal(members, master.id, force=call.query.force)
        is_leader = master.id == self.store.leadership.leader
        if is_leader and sum(member.is_voter for member in members) > 1:
            if not await self.membership.transfer():
                raise NotReady(f"{master.name} leads, and no other master could take over")
            raise NotLeader(f"{master.name} led; it has handed over before it is removed")

        def remove(tx: Transaction) -> None:
            tx.delete(MASTERS, master.id)
            self._note(tx, call.actor, "remove", master)

        await self.store.update(remove)
        until = self.env.monotonic() + LEAVE_SECONDS
        while any(member.id == master.id for member in self.membership.members()):
            if self.env.monotonic() > until:
                raise NotReady(f"{master.name} is leaving; that is not done yet")
            await asyncio.sleep(0.05)
        return Ok(f"removed master {master.name}")

    def _note(self, tx: Transaction, actor: str, verb: str, master: Master) -> None:
        resource, now = f"masters/{master.name}", self.env.now()
        trail(tx, actor=actor, action=f"master.{verb}", resource=resource, now=now, id=master.id)

    async def transfer(self, call: Call[TransferQuery, None]) -> LedByOut:
        heir = None
        if call.query.to is not None:
            heir = operations.find_master(self.store.state, call.query.to)
            operations.check_heir(self.membership.members(), heir)
        seen = self.store.leadership
        if heir is None or heir.id != seen.leader:
            if not await self.membership.transfer(heir.id if heir else None):
                who = heir.name if heir else "no other master"
                raise NotReady(f"{who} could not take over; this one goes on leading")
            seen = self.store.leadership
        try:
            async with asyncio.timeout(LEADER_SECONDS):
                while seen.leader is None:
                    seen = await self.store.leadership_change(seen)
        except TimeoutError as error:
            raise NotReady("leadership was given away; nobody is known to lead yet") from error
        master = self.store.state.get(MASTERS, seen.leader or "")
        return LedByOut(master.name if master else seen.leader)

    async def keys(self, call: Call[NoQuery, None]) -> object:
        keys = [base64.b64encode(key.raw).decode() for key in self.keyring.keys]
        return {"kek": keys[0], "keys": keys}

    async def register(self, call: Call[NoQuery, RegisterIn]) -> Ok:
        if call.path["id"] != call.peer:
            raise Forbidden("a master registers itself only")
        body = call.body
        me = Master(
            id=call.path["id"],
            name="",
            joined_at=0.0,
            peers=body.peers,
            api=body.api,
            workers=body.workers,
            version=body.version,
            schema=body.schema_version,
        )
        await self.store.update(lambda tx: operations.register(tx, me))
        return Ok("registered")


def describe(store: Store, state: State, members: tuple[Member, ...]) -> list[MasterOut]:
    """Each master in words and numbers, by name."""
    by_id = {member.id: member for member in members}
    leader = store.leadership.leader
    rows = sorted(state.scan(MASTERS), key=lambda master: master.name)
    return [_master(row, by_id.get(row.id), is_leader=row.id == leader) for row in rows]


def _master(master: Master, member: Member | None, *, is_leader: bool) -> MasterOut:
    if member is None:
        role = "joining"
    elif is_leader:
        role = "leader"
    else:
        role = "follower" if member.is_voter else "learner"
    return MasterOut(
        id=master.id,
        name=master.name,
        role=role,
        connected=member is not None and member.is_connected,
        behind=member.behind if member else None,
        heard_seconds=member.heard_seconds if member else None,
        api=master.api,
        workers=master.workers,
        peers=master.peers,
        version=master.version,
    )
