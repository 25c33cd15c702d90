"""Everything in the state that a key-encryption key has wrapped, and how it is wrapped anew.

A new slice that wraps something adds it here; a test finds what was forgotten.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from orca_common.env import Env
from orca_master.cluster.authority.model import ROTATIONS, Rotation
from orca_master.cluster.model import AUTHORITY, Authority
from orca_master.cluster.pki import PURPOSE
from orca_master.identity.registries import accounts
from orca_master.identity.registries.model import LOGINS, Login
from orca_master.identity.secrets.model import DATA_KEYS, DataKey
from orca_master.identity.secrets.vault import key_name
from orca_master.identity.wrapping.keyring import WrappingKey
from orca_master.ingress.certificates import keys
from orca_master.ingress.certificates.model import ACME, CERTIFICATES, Acme, Certificate
from orca_master.sources.webhooks import verifying
from orca_master.sources.webhooks.model import HOOKS, Hook
from orca_master.state.rows import State
from orca_master.state.table import Key, Table
from orca_master.state.transaction import Transaction

Part = tuple[bytes, bytes]
"""(what it is for, wrapped)."""


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A table with wrapped things in its rows. `parts` of a row; `put`: the row with others instead."""

    table: Table[Any]
    parts: Callable[[Any], Sequence[Part]]
    put: Callable[[Any, Sequence[bytes]], Any]


def _parts_of_data_key(row: DataKey) -> Sequence[Part]:
    return [(key_name(row.tenant, row.number), row.wrapped)]


def _parts_of_login(row: Login) -> Sequence[Part]:
    return [(accounts.purpose(row.tenant, row.project, row.host), row.ciphertext)]


def _parts_of_certificate(row: Certificate) -> Sequence[Part]:
    return [(keys.purpose(row.tenant, row.name), row.sealed_key)]


def _parts_of_acme(row: Acme) -> Sequence[Part]:
    return [(keys.account_purpose(row.tenant), row.sealed_key)]


def _parts_of_hook(row: Hook) -> Sequence[Part]:
    return [(verifying.purpose(row.id, each.id), each.ciphertext) for each in row.secrets]


def _put_in_hook(row: Hook, wrapped: Sequence[bytes]) -> Hook:
    pairs = zip(row.secrets, wrapped, strict=True)
    return replace(row, secrets=tuple(replace(each, ciphertext=anew) for each, anew in pairs))


def _parts_of_authority(row: Authority) -> Sequence[Part]:
    return [(PURPOSE, row.wrapped_key)]


def _parts_of_rotation(row: Rotation) -> Sequence[Part]:
    return [(PURPOSE, row.old.wrapped_key), (PURPOSE, row.new.wrapped_key)]


def _put_in_rotation(row: Rotation, wrapped: Sequence[bytes]) -> Rotation:
    old, new = wrapped
    return replace(
        row, old=replace(row.old, wrapped_key=old), new=replace(row.new, wrapped_key=new)
    )


WRAPPED = (
    Wrapped(AUTHORITY, _parts_of_authority, lambda row, new: replace(row, wrapped_key=new[0])),
    Wrapped(ROTATIONS, _parts_of_rotation, _put_in_rotation),
    Wrapped(DATA_KEYS, _parts_of_data_key, lambda row, new: replace(row, wrapped=new[0])),
    Wrapped(LOGINS, _parts_of_login, lambda row, new: replace(row, ciphertext=new[0])),
    Wrapped(
        CERTIFICATES,
        _parts_of_certificate,
        lambda row, new: replace(row, sealed_key=new[0]),
    ),
    Wrapped(ACME, _parts_of_acme, lambda row, new: replace(row, sealed_key=new[0])),
    Wrapped(HOOKS, _parts_of_hook, _put_in_hook),
)

Place = tuple[Wrapped, Key]
"""Where a row is."""


def places(state: State, old: WrappingKey) -> Iterator[Place | None]:
    """Of rows in which something is that this key has wrapped; None for each row that has nothing."""
    for wrapped in WRAPPED:
        for row in state.scan(wrapped.table):
            is_left = any(old.unwrap(*part) is not None for part in wrapped.parts(row))
            yield (wrapped, wrapped.table.key(row)) if is_left else None


def wrap_anew(
    tx: Transaction, env: Env, those: Sequence[Place], old: WrappingKey, new: WrappingKey
) -> None:
    """What is there still of these rows."""
    for wrapped, key in those:
        row = tx.get(wrapped.table, *key)
        if row is not None:
            anew = [_anew(env, part, old, new) for part in wrapped.parts(row)]
            tx.put(wrapped.table, wrapped.put(row, anew))


def _anew(env: Env, part: Part, old: WrappingKey, new: WrappingKey) -> bytes:
    purpose, wrapped = part
    secret = old.unwrap(purpose, wrapped)
    return wrapped if secret is None else new.wrap(env, purpose, secret)
