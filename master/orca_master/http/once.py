"""`Idempotency-Key`: a change that is asked for again is not made again, its first result is given.

The result is kept in the same commit as the change, so there is no moment at which one is there and
the other is not. It is kept for a day; a key that comes with another request is refused (422). In
the spirit of draft-ietf-httpapi-idempotency-key-header-07.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from orca_common.env import Env
from orca_master.errors import Invalid, KeyReused, Problem
from orca_master.state.store import Store
from orca_master.state.table import Table
from orca_master.state.transaction import Transaction

T = TypeVar("T")

KEPT_SECONDS = 24 * 3600.0
SWEEP_SECONDS = 600.0
SWEPT_AT_ONCE = 500
MAX_KEY_CHARACTERS = 255


class Done(msgspec.Struct, frozen=True, omit_defaults=True):
    """A change that was made under a key. `result` is JSON."""

    tenant: str
    key: str
    fingerprint: str
    result: bytes
    at: float


DONE = Table("done", Done, key=lambda d: (d.tenant, d.key))


@dataclass(frozen=True, slots=True)
class OnceKey:
    """Whose key it is, and for which request (SHA-256 of method, target and body)."""

    tenant: str
    key: str
    fingerprint: str


def once_key(tenant: str, key: str, *, method: str, target: str, body: bytes) -> OnceKey:
    """Raises Invalid for a key that is no key."""
    if not 1 <= len(key) <= MAX_KEY_CHARACTERS or not key.isascii() or not key.isprintable():
        raise Invalid(
            [Problem("Idempotency-Key", f"must be 1 to {MAX_KEY_CHARACTERS} printable characters")]
        )
    told = b"\0".join((method.encode(), target.encode(), body))
    return OnceKey(tenant, key, hashlib.sha256(told).hexdigest())


async def update_once(
    store: Store, once: OnceKey, fn: Callable[[Transaction], T], *, now: float
) -> T:
    """`store.update(fn)`, or what it gave when it was first done under this key.

    The result must be JSON: what comes back of a tuple is a list, whether it is the first time or
    not. Raises KeyReused, and what `store.update` raises.
    """

    def change(tx: Transaction) -> bytes:
        before = tx.get(DONE, once.tenant, once.key)
        if before is not None and before.at > now - KEPT_SECONDS:
            if before.fingerprint != once.fingerprint:
                raise KeyReused(
                    "this Idempotency-Key was used for another request: take a new one for each"
                )
            return before.result
        result = json.dumps(fn(tx)).encode()
        tx.put(DONE, Done(once.tenant, once.key, once.fingerprint, result, now))
        return result

    result: Any = json.loads(await store.update(change))
    return result  # type: ignore[no-any-return]


class OnceSweeper:
    """Forgets old keys. Runs on the leader only."""

    def __init__(self, env: Env, store: Store) -> None:
        self._env = env
        self._store = store

    async def run(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            await self.sweep()

    async def sweep(self) -> None:
        until = self._env.now() - KEPT_SECONDS
        old = [done for done in self._store.state.scan(DONE) if done.at <= until]
        for start in range(0, len(old), SWEPT_AT_ONCE):
            batch = old[start : start + SWEPT_AT_ONCE]

            def forget(tx: Transaction, batch: list[Done] = batch) -> None:
                for done in batch:
                    tx.delete(DONE, done.tenant, done.key)

            await self._store.update(forget)
