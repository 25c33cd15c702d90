"""What every change of a service through the API has in common: once, with its line in the trail."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from orca_common.env import Env
from orca_master.audit.operations import trail
from orca_master.http.once import update_once
from orca_master.http.route import Call
from orca_master.services.model import Service
from orca_master.state.store import Store
from orca_master.state.transaction import Transaction

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Changes:
    env: Env
    store: Store

    async def once(self, call: Call[Any, Any], fn: Callable[[Transaction], T]) -> T:
        """As `store.update`; with an `Idempotency-Key` only the first time, with the same result after."""
        if call.once is None:
            return await self.store.update(fn)
        return await update_once(self.store, call.once, fn, now=self.env.now())

    def note(
        self, tx: Transaction, call: Call[Any, Any], verb: str, service: Service, **details: object
    ) -> None:
        resource = f"services/{service.project}/{service.name}"
        action, now = f"service.{verb}", self.env.now()
        trail(tx, actor=call.actor, action=action, resource=resource, now=now, **details)
