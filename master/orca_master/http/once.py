"""`Idempotency-Key`: a change that is asked for again is not made again, its first result is given.

The result is kept in the same commit as the change, so there is no moment at which one is there and
the other is not. It is kept for a day; a key that comes with another request is refused (422). In
the spirit of draft-ietf-httpapi-idempotency-key-header-07.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from orca_master.errors import Invalid, KeyReused, Problem
from orca_master.state.store import Store
from orca_master.state.table import Table, View
from orca_master.state.transaction import Transaction

T = TypeVar("T")

KEPT_SECONDS = 24 * 3600.0
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


def old(view: View, now: float) -> list[Done]:
    """Those whose key may be taken again."""
    return [done for done in view.scan(DONE) if done.at <= now - KEPT_SECONDS]


def forget(tx: Transaction, rows: Sequence[Done]) -> None:
    for each in rows:
        tx.delete(DONE, each.tenant, each.key)
