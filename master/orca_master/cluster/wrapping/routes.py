"""The endpoints of the key-encryption key: how it is, replace it, and what masters tell of it."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

from pydantic import Field

from orca_common.env import Env
from orca_master.cluster.masters.port import Membership
from orca_master.cluster.wrapping import operations
from orca_master.cluster.wrapping.answers import KeyMissingOut, WrappingOut
from orca_master.errors import Conflict, Forbidden
from orca_master.http.answers import Ok
from orca_master.http.dialects import CLUSTER
from orca_master.http.route import Call, NoQuery, Open, Reply, Route, StrictModel
from orca_master.identity.model import Permission
from orca_master.identity.wrapping.keyring import Keyring
from orca_master.identity.wrapping.model import KeyHolding, WrappingStep, the_wrapping
from orca_master.state.rows import State
from orca_master.state.store import Store
from orca_master.state.transaction import Transaction

KeyId = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]


class KeyHoldingIn(StrictModel):
    """See `identity.wrapping.model.KeyHolding`."""

    keys: Annotated[list[KeyId], Field(max_length=4)]
    is_given: bool


@dataclass(frozen=True, slots=True)
class WrappingRoutes:
    env: Env
    store: Store
    membership: Membership
    keyring: Keyring

    def table(self) -> list[Route]:
        route = partial(Route, dialect=CLUSTER, tag="secrets")
        path = "/api/v1/cluster/wrapping-key"
        return [
            route(
                f"GET {path}",
                Permission.CLUSTER_READ,
                self.show,
                "The key-encryption key, and how far its replacement is",
                answer=WrappingOut,
            ),
            route(
                f"POST {path}/rotate",
                Permission.MASTERS_WRITE,
                self.rotate,
                "Replace the key-encryption key while everything runs",
                statuses=(202,),
                answer=WrappingOut,
            ),
            route(
                "PUT /internal/v1/wrapping-key/{id}",
                Open.MASTERS,
                self.hold,
                "Which keys a master has on its disk",
                body=KeyHoldingIn,
            ),
        ]

    async def show(self, call: Call[NoQuery, None]) -> WrappingOut:
        return self._shown(await self.store.fresh())

    async def rotate(self, call: Call[NoQuery, None]) -> Reply:
        """Answers once it is wanted so, durably; the rest comes by itself."""
        if self.keyring.is_given:
            raise Conflict(operations.given_elsewhere("the leader"))

        def rotate(tx: Transaction) -> None:
            current = self.keyring.current(tx).id
            operations.begin(tx, current, actor=call.actor, now=self.env.now())

        await self.store.update(rotate)
        return Reply(self._shown(self.store.state), 202)

    async def hold(self, call: Call[NoQuery, KeyHoldingIn]) -> Ok:
        if call.path["id"] != call.peer:
            raise Forbidden("a master speaks of itself only")
        holding = KeyHolding(call.path["id"], tuple(call.body.keys), call.body.is_given)
        await self.store.update(lambda tx: operations.hold(tx, holding))
        return Ok("noted")

    def _shown(self, state: State) -> WrappingOut:
        row = the_wrapping(state)
        if row is None:
            current = self.keyring.current(state).id
            return WrappingOut(current, None, str(WrappingStep.DONE), None, None, None, [])
        those = operations.lacking(state, self.membership.members())
        return WrappingOut(
            current=row.current,
            since=row.since or None,
            step=str(row.step),
            actor=row.actor,
            begun_at=row.begun_at,
            given_up=row.given_up or None,
            missing=[KeyMissingOut(each.name, each.reason) for each in those],
        )
