"""Gives new values of secrets to who uses them, and seals old values with a new data key.

Rows say what is left to do, so another leader goes on where this one stopped.
"""

from collections.abc import Iterator, Sequence
from functools import partial

from orca_common.env import Env
from orca_common.logs import get_logger
from orca_master.errors import NotReady, Refusal
from orca_master.identity.secrets import operations as secrets
from orca_master.identity.secrets.model import DATA_KEYS, SECRETS, Secret, SecretVersion
from orca_master.identity.secrets.vault import Unreadable, Vault
from orca_master.identity.wrapping.keyring import KeyAway
from orca_master.services.rollouts.model import REVISIONS
from orca_master.services.secrets import operations
from orca_master.state.store import Store

SEALED_BYTES_AT_ONCE = 256 << 10
SEALED_AT_ONCE = 25

log = get_logger("secrets")


class SecretsController:
    """Runs on the leader only, and holds no truth."""

    def __init__(self, env: Env, store: Store, vault: Vault) -> None:
        self._env = env
        self._store = store
        self._vault = vault

    async def run(self) -> None:
        with self._store.follow(SECRETS, DATA_KEYS, REVISIONS) as follower:
            while True:
                await follower.next()
                await self._roll_all()
                await self._seal_all()
                gone = operations.removed_for_good(self._store.state)
                if gone:
                    await self._store.tend(partial(secrets.forget_removed, secrets=gone))

    async def _roll_all(self) -> None:
        for secret in self._store.state.find(SECRETS, "rolling", "yes"):
            await self._roll(secret)

    async def _roll(self, secret: Secret) -> None:
        for service in operations.outdated(self._store.state, secret):
            try:
                begun = await self._store.update(
                    partial(operations.roll, service=service, secret=secret, now=self._env.now())
                )
            except Refusal as refusal:
                reason = refusal.message
                log.warning("secret not rolled out", service=service.name, reason=reason)
                continue
            if begun:
                log.info("secret changed: its user is rolled", key=secret.key, service=service.name)
        await self._store.update(partial(secrets.rolled, secret=secret))

    async def _seal_all(self) -> None:
        state = self._store.state
        tenants = {key.tenant for key in state.scan(DATA_KEYS)}
        for tenant in sorted(tenants):
            if len(secrets.data_keys(state, tenant)) > 1:
                await self._seal(tenant, secrets.left_to_seal(state, tenant))

    async def _seal(self, tenant: str, rows: Sequence[SecretVersion]) -> None:
        try:
            for batch in _batches(rows):
                unreadable = await self._store.update(
                    partial(secrets.seal_anew, vault=self._vault, tenant=tenant, rows=batch)
                )
                if unreadable:
                    log.error("secrets cannot be opened; set them again", secrets=unreadable)
            await self._store.update(partial(secrets.forget_old_keys, tenant=tenant))
        except KeyAway:
            raise
        except (NotReady, Unreadable) as error:
            log.error("secrets cannot be sealed anew", reason=str(error))
            return
        if not secrets.left_to_seal(self._store.state, tenant):
            log.info("every secret is sealed with the new data key", count=len(rows))


def _batches(rows: Sequence[SecretVersion]) -> Iterator[list[SecretVersion]]:
    """Of so many, and so large, that a transaction may take them."""
    batch: list[SecretVersion] = []
    size = 0
    for row in rows:
        if batch and (size + row.size > SEALED_BYTES_AT_ONCE or len(batch) == SEALED_AT_ONCE):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += row.size
    if batch:
        yield batch
