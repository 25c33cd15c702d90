"""The verbs of secrets: set one, remove it, find what a text means, seal all with a new key."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from orca_master.errors import Conflict, Invalid, NotFound, Problem, TooLarge
from orca_master.identity.secrets.model import (
    CLUSTER_SCOPE,
    DATA_KEYS,
    SECRET_VERSIONS,
    SECRETS,
    DataKey,
    Secret,
    SecretUse,
    SecretVersion,
    shown,
    version_key,
)
from orca_master.identity.secrets.vault import Unreadable, Vault
from orca_master.state.transaction import Transaction, View

MOST_VALUE_BYTES = 64 << 10
MOST_SECRETS = 10_000
MOST_BYTES = 64 << 20
"""Of all values with their old versions; every master holds them in memory."""
MOST_VERSIONS = 50
MOST_DATA_KEYS = 8


@dataclass(frozen=True, slots=True)
class Missing:
    """`${secrets.KEY}` for which there is nothing."""

    project: str
    key: str

    @property
    def reason(self) -> str:
        return (
            f"secret {self.key} does not exist: set it with `orca secrets set {self.key}`, or with"
            f" `--project {self.project}` for this project only"
        )


def current_of(view: View, tenant: str, project: str, key: str) -> SecretVersion | None:
    """The current version in just this scope."""
    secret = view.get(SECRETS, tenant, project, key)
    if secret is None or not secret.current:
        return None
    return view.get(SECRET_VERSIONS, tenant, project, key, version_key(secret.current))


def find_uses(
    view: View, tenant: str, project: str, keys: Iterable[str]
) -> tuple[tuple[SecretUse, ...], list[Missing]]:
    """What each key stands for now, the project's before the cluster's; and those that nothing is."""
    uses: list[SecretUse] = []
    missing: list[Missing] = []
    for key in sorted(set(keys)):
        for scope in (project, CLUSTER_SCOPE):
            found = current_of(view, tenant, scope, key)
            if found is not None:
                uses.append(SecretUse(tenant, scope, key, found.version))
                break
        else:
            missing.append(Missing(project, key))
    return tuple(uses), missing


def version_of(view: View, use: SecretUse) -> SecretVersion | None:
    return view.get(SECRET_VERSIONS, *use.row_key)


def versions_of(view: View, tenant: str, project: str, key: str) -> list[SecretVersion]:
    """Oldest first."""
    return view.find(SECRET_VERSIONS, "secret", f"{tenant}/{project}/{key}")


def is_text(value: bytes) -> bool:
    """Whether an environment variable can hold it."""
    try:
        return "\0" not in value.decode()
    except UnicodeDecodeError:
        return False


def set_secret(
    tx: Transaction,
    vault: Vault,
    *,
    tenant: str,
    project: str,
    key: str,
    value: bytes,
    used: Collection[int],
    roll: bool,
    by: str,
    now: float,
) -> tuple[Secret, bool]:
    """The secret with this value, and whether that is another one than it had.

    Versions that are not `used` are forgotten, but for the current one and the one before. Raises Invalid,
    TooLarge, Conflict.
    """
    _check_value(value)
    before = tx.get(SECRETS, tenant, project, key)
    current = current_of(tx, tenant, project, key)
    if before is not None and current is not None and vault.open(tx, current) == value:
        after = replace(before, rolling=before.rolling or roll, by=by if roll else before.by)
        tx.put(SECRETS, after)
        return after, False
    data_key = sealing_key(tx, vault, tenant, by=by)
    number = 1 + (before.newest if before is not None else 0)
    sealed = vault.seal(data_key, value, project=project, name=key, version=number)
    row = SecretVersion(
        tenant=tenant,
        project=project,
        key=key,
        version=number,
        ciphertext=sealed,
        data_key=data_key.number,
        size=len(value),
        made_at=now,
        by=by,
        is_text=is_text(value),
    )
    tx.put(SECRET_VERSIONS, row)
    after = Secret(tenant, project, key, number, number, rolling=roll, by=by)
    kept = _forget_versions(tx, after, {*used, number, before.current if before else 0})
    after = replace(after, bytes_kept=sum(each.size for each in kept))
    tx.put(SECRETS, after)
    return after, True


def _check_value(value: bytes) -> None:
    if not value:
        raise Invalid([Problem("value", "is empty: `orca secrets rm` removes a secret")])
    if len(value) > MOST_VALUE_BYTES:
        raise TooLarge(f"a secret is at most {MOST_VALUE_BYTES >> 10} KiB")


def check_room(view: View, tenant: str, project: str, key: str, size: int) -> None:
    """Whether one more value of so many bytes can be kept. It looks at all secrets, which takes too long for
    a transaction. Raises Conflict, TooLarge."""
    known = view.find(SECRETS, "tenant", tenant)
    if len(known) >= MOST_SECRETS and view.get(SECRETS, tenant, project, key) is None:
        raise Conflict(
            f"there are {MOST_SECRETS} secrets already, and no more can be kept:"
            " remove some with `orca secrets rm`"
        )
    if sum(each.bytes_kept for each in known) + size > MOST_BYTES:
        raise TooLarge(
            f"all secrets together are at most {MOST_BYTES >> 20} MiB, old versions included:"
            " remove some with `orca secrets rm`"
        )


def _forget_versions(tx: Transaction, secret: Secret, used: Collection[int]) -> list[SecretVersion]:
    old = versions_of(tx, secret.tenant, secret.project, secret.key)
    kept = [row for row in old if row.version in used]
    kept = kept[-MOST_VERSIONS:]
    for row in old:
        if row not in kept:
            _delete_version(tx, row)
    return kept


def _delete_version(tx: Transaction, row: SecretVersion) -> None:
    tx.delete(SECRET_VERSIONS, row.tenant, row.project, row.key, version_key(row.version))


def remove_secret(
    tx: Transaction, *, tenant: str, project: str, key: str, is_referred_to: bool
) -> None:
    """All of its versions. While revisions refer to it, its numbers are not given again. NotFound."""
    secret = tx.get(SECRETS, tenant, project, key)
    if secret is None or not secret.current:
        raise NotFound("secret", shown(project, key))
    for row in versions_of(tx, tenant, project, key):
        _delete_version(tx, row)
    if is_referred_to:
        tx.put(SECRETS, replace(secret, current=0, bytes_kept=0, rolling=False))
    else:
        tx.delete(SECRETS, tenant, project, key)


def forget_removed(tx: Transaction, secrets: Iterable[Secret]) -> None:
    """Those that were removed, once no revision refers to them any more."""
    for secret in secrets:
        now = tx.get(SECRETS, secret.tenant, secret.project, secret.key)
        if now is not None and not now.current:
            tx.delete(SECRETS, secret.tenant, secret.project, secret.key)


def rolled(tx: Transaction, secret: Secret) -> None:
    """Everybody who uses it has been asked to take this version."""
    now = tx.get(SECRETS, secret.tenant, secret.project, secret.key)
    if now is not None and now.rolling and now.current == secret.current:
        tx.put(SECRETS, replace(now, rolling=False))


def data_keys(view: View, tenant: str) -> list[DataKey]:
    """Oldest first; the last one seals."""
    return view.find(DATA_KEYS, "tenant", tenant)


def sealing_key(tx: Transaction, vault: Vault, tenant: str, *, by: str) -> DataKey:
    """The newest data key; the first one is made when it is needed. Raises NotReady."""
    known = data_keys(tx, tenant)
    if known:
        return known[-1]
    made = vault.new_key(tx, tenant, 1, by=by)
    tx.put(DATA_KEYS, made)
    return made


def rotate_key(tx: Transaction, vault: Vault, tenant: str, *, by: str) -> DataKey:
    """From now on another data key seals; `sealed_anew` then takes the old values over. Conflict."""
    known = data_keys(tx, tenant)
    if len(known) >= MOST_DATA_KEYS:
        raise Conflict(
            "earlier changes of the key are still under way: wait until `orca secrets list` says of"
            " no secret that it is left"
        )
    made = vault.new_key(tx, tenant, 1 + (known[-1].number if known else 0), by=by)
    tx.put(DATA_KEYS, made)
    return made


def left_to_seal(view: View, tenant: str) -> list[SecretVersion]:
    """What an older data key has sealed."""
    return [
        row
        for key in data_keys(view, tenant)[:-1]
        for row in view.find(SECRET_VERSIONS, "data_key", f"{tenant}/{key.number}")
    ]


def seal_anew(
    tx: Transaction, vault: Vault, tenant: str, rows: Sequence[SecretVersion]
) -> list[str]:
    """Seal these with the newest key, as far as they are there still. Returns the names of what cannot be
    opened; it stays as it is."""
    unreadable = []
    known = data_keys(tx, tenant)
    for planned in rows:
        key = (tenant, planned.project, planned.key, version_key(planned.version))
        row = tx.get(SECRET_VERSIONS, *key)
        if row is None or row.data_key == known[-1].number:
            continue
        try:
            value = vault.open(tx, row)
        except Unreadable:
            unreadable.append(f"{shown(row.project, row.key)} version {row.version}")
            continue
        sealed = vault.seal(
            known[-1], value, project=row.project, name=row.key, version=row.version
        )
        tx.put(SECRET_VERSIONS, replace(row, ciphertext=sealed, data_key=known[-1].number))
    return unreadable


def forget_old_keys(tx: Transaction, tenant: str) -> None:
    """Those that have sealed nothing that is kept."""
    for old in data_keys(tx, tenant)[:-1]:
        if not tx.find(SECRET_VERSIONS, "data_key", f"{tenant}/{old.number}"):
            tx.delete(DATA_KEYS, tenant, version_key(old.number))
