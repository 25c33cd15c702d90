"""The trail of those who were not let in: with the reason, and so few that guessing floods nothing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from orca_common.env import Env
from orca_common.logs import get_logger
from orca_master.audit.operations import trail
from orca_master.errors import Refusal
from orca_master.state.store import Store
from orca_master.state.transaction import Transaction
from orca_proto.identity import NodeRole

NOTED_PER_MINUTE = 10
MINUTE_SECONDS = 60.0

log = get_logger("joining")


class Refusals:
    """Counted by the master that leads, in memory: a new leader begins at none."""

    def __init__(self, env: Env, store: Store) -> None:
        self._env = env
        self._store = store
        self._ends = 0.0
        self._noted = 0
        self._left_out = 0

    @asynccontextmanager
    async def noted(self, role: NodeRole, name: str, token: str) -> AsyncIterator[None]:
        """Around letting somebody in: a refusal goes on to him, and is noted. `token`: its public key."""
        try:
            yield
        except Refusal as refusal:
            log.warning("not let in", role=str(role), name=name, reason=refusal.message)
            await self._note(role, name, token, refusal.message)
            raise

    async def _note(self, role: NodeRole, name: str, token: str, reason: str) -> None:
        now = self._env.monotonic()
        if now >= self._ends:
            self._ends, self._noted = now + MINUTE_SECONDS, 0
        if self._noted >= NOTED_PER_MINUTE:
            self._left_out += 1
            return
        self._noted += 1
        left_out, self._left_out = self._left_out, 0
        more = {"left_out": left_out} if left_out else {}
        noun = "master" if role is NodeRole.MASTER else "node"

        def note(tx: Transaction) -> None:
            trail(
                tx,
                actor=f"token {token[:8]}",
                action=f"{noun}.join-refused",
                resource=f"{noun}s/{name}",
                now=self._env.now(),
                reason=reason,
                **more,
            )

        await self._store.update(note)
