"""The endpoints of the cluster's authority: how it is, replace it, and what masters tell of it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from cryptography import x509
from pydantic import Field

from orca_common.env import Env
from orca_master.audit.operations import trail
from orca_master.cluster import pki
from orca_master.cluster.authority import operations
from orca_master.cluster.authority.answers import AuthorityOut, MissingOut, RotationOut
from orca_master.cluster.authority.controller import connected_masters
from orca_master.cluster.authority.model import Holding, Rotation
from orca_master.cluster.masters.port import Membership
from orca_master.errors import Conflict, Forbidden, NotFound
from orca_master.http.answers import Ok
from orca_master.http.dialects import CLUSTER
from orca_master.http.route import Call, NoQuery, Open, QueryModel, Reply, Route, StrictModel
from orca_master.identity.model import Permission
from orca_master.identity.wrapping.keyring import Keyring, WrappingKey
from orca_master.state.rows import State
from orca_master.state.store import Store
from orca_master.state.transaction import Transaction
from orca_proto.identity import NodeRole
from orca_proto.trust import fingerprint, fingerprints

MOST_MISSING = 100
MARK_BYTES = 4

Fingerprint = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class RotateQuery(QueryModel):
    """`force`: do not wait for who is not connected, and for the others 30 s a step; also while a
    rotation goes on."""

    force: bool = False


class HoldingIn(StrictModel):
    """See `model.Holding`."""

    trusts: Annotated[list[Fingerprint], Field(max_length=10)]
    shows: Fingerprint


@dataclass(frozen=True, slots=True)
class AuthorityRoutes:
    env: Env
    store: Store
    membership: Membership
    signer: Callable[[], pki.Signer]
    keyring: Keyring

    def table(self) -> list[Route]:
        route = partial(Route, dialect=CLUSTER, tag="masters")
        authority = "/api/v1/cluster/authority"
        return [
            route(
                f"GET {authority}",
                Permission.CLUSTER_READ,
                self.show,
                "The cluster's certificate authority, and how far its replacement is",
                answer=AuthorityOut,
            ),
            route(
                f"POST {authority}/rotate",
                Permission.MASTERS_WRITE,
                self.rotate,
                "Replace the certificate authority while everything runs",
                statuses=(202,),
                query=RotateQuery,
                answer=AuthorityOut,
            ),
            route(
                "PUT /internal/v1/authority/{role}/{id}",
                Open.MASTERS,
                self.hold,
                "What a master or a worker trusts and shows",
                body=HoldingIn,
            ),
        ]

    async def show(self, call: Call[NoQuery, None]) -> AuthorityOut:
        return self._shown(await self.store.fresh())

    async def rotate(self, call: Call[RotateQuery, None]) -> Reply:
        """Answers once it is wanted so, durably; the rest comes by itself."""
        kek = self.keyring.current(self.store.state)
        rotation, connected = self._new(call.actor, kek), connected_masters(self.membership)

        def rotate(tx: Transaction) -> None:
            if self.keyring.current(tx) is not kek:
                raise Conflict("the key-encryption key has just been replaced: ask again")
            now = self.env.now()
            if call.query.force and operations.the_rotation(tx) is not None:
                self._note_force(tx, call.actor, now)
            else:
                operations.begin(tx, rotation, connected)
            if call.query.force:
                operations.force(tx, now=now)

        await self.store.update(rotate)
        return Reply(self._shown(self.store.state), 202)

    def _new(self, actor: str, kek: WrappingKey) -> Rotation:
        """From the authority that signs now to one that is made here."""
        old = self.signer()
        mark = self.env.random.token_bytes(MARK_BYTES).hex()
        made = pki.create_authority(self.env, old.cluster, kek, mark=mark)
        new = pki.open_authority(made, old.cluster, self.keyring)
        now = self.env.now()
        return Rotation(
            old=operations.the_authority(self.store.state),
            new=made,
            old_fingerprint=old.fingerprint.hex(),
            new_fingerprint=new.fingerprint.hex(),
            old_voucher=pki.vouch(new, old.pem),
            new_voucher=pki.vouch(old, new.pem),
            actor=actor,
            begun_at=now,
            step_since=now,
        )

    def _note_force(self, tx: Transaction, actor: str, now: float) -> None:
        trail(tx, actor=actor, action="authority.force", resource=operations.RESOURCE, now=now)

    async def hold(self, call: Call[NoQuery, HoldingIn]) -> Ok:
        role, id = call.path["role"], call.path["id"]
        if role not in list(NodeRole):
            raise NotFound("role", role)
        if role == NodeRole.MASTER and id != call.peer:
            raise Forbidden("a master speaks of itself and of workers only")
        holding = Holding(role, id, tuple(sorted(call.body.trusts)), call.body.shows)
        await self.store.update(lambda tx: operations.hold(tx, holding))
        return Ok("noted")

    def _shown(self, state: State) -> AuthorityOut:
        authority = operations.the_authority(state)
        certificate = x509.load_pem_x509_certificate(authority.certificate)
        rotation = operations.the_rotation(state)
        return AuthorityOut(
            fingerprint=fingerprint(certificate),
            since=authority.since or None,
            until=certificate.not_valid_after_utc.timestamp(),
            replaced=fingerprints(authority.previous)[0] if authority.previous else None,
            left_behind=list(authority.left_behind),
            rotation=None if rotation is None else self._rotation(state, rotation),
        )

    def _rotation(self, state: State, rotation: Rotation) -> RotationOut:
        connected = connected_masters(self.membership)
        those = operations.those_missing(state, rotation, connected)
        return RotationOut(
            step=str(rotation.step),
            old=rotation.old_fingerprint,
            new=rotation.new_fingerprint,
            actor=rotation.actor,
            begun_at=rotation.begun_at,
            step_since=rotation.step_since,
            forced=bool(rotation.forced_at),
            member_count=len(operations.members(state, connected)),
            missing_count=len(those),
            missing=[
                MissingOut(str(each.member.role), each.member.name, each.reason)
                for each in those[:MOST_MISSING]
            ],
        )
