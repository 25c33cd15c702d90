"""Sealing and opening: AES-256-GCM, with a data key that a key-encryption key has wrapped.

What a value belongs to is bound to it as associated data, so that a ciphertext is worth nothing under
another name. Opened data keys stay in memory; values do not.
"""

import json

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from orca_common.env import Env
from orca_master.identity.secrets.model import DATA_KEYS, DataKey, SecretVersion, version_key
from orca_master.identity.wrapping.keyring import Keyring, Unopened
from orca_master.state.table import View

NONCE_BYTES = 12
KEY_BYTES = 32
_MOST_OPENED = 64


class Unreadable(Exception):
    """A row that its key does not open: it was changed, or belongs elsewhere."""


class Vault:
    """A `keyring` without a key: no secret can be used."""

    def __init__(self, env: Env, keyring: Keyring) -> None:
        self._env = env
        self._keyring = keyring
        self._opened: dict[bytes, AESGCM] = {}

    def new_key(self, view: View, tenant: str, number: int, *, by: str) -> DataKey:
        """Raises NotReady."""
        key = self._env.random.token_bytes(KEY_BYTES)
        wrapped = self._keyring.wrap(view, key_name(tenant, number), key)
        return DataKey(tenant, number, wrapped, self._env.now(), by)

    def seal(self, key: DataKey, value: bytes, *, project: str, name: str, version: int) -> bytes:
        """Raises NotReady, Unreadable."""
        nonce = self._env.random.token_bytes(NONCE_BYTES)
        bound = _value_name(key.tenant, project, name, version, key.number)
        return nonce + self._key(key).encrypt(nonce, value, bound)

    def open(self, view: View, row: SecretVersion) -> bytes:
        """The value. Raises NotReady, Unreadable."""
        key = view.get(DATA_KEYS, row.tenant, version_key(row.data_key))
        if key is None:
            raise Unreadable(f"data key {row.data_key} of secret {row.key} is missing")
        nonce, sealed = row.ciphertext[:NONCE_BYTES], row.ciphertext[NONCE_BYTES:]
        bound = _value_name(row.tenant, row.project, row.key, row.version, key.number)
        try:
            return self._key(key).decrypt(nonce, sealed, bound)
        except InvalidTag as error:
            raise Unreadable(f"version {row.version} of secret {row.key} was damaged") from error

    def _key(self, row: DataKey) -> AESGCM:
        name = key_name(row.tenant, row.number)
        known = self._opened.get(name + row.wrapped)
        if known is None:
            try:
                known = AESGCM(self._keyring.unwrap(name, row.wrapped))
            except Unopened as error:
                raise Unreadable(
                    f"the key-encryption key does not open data key {row.number}: put back the"
                    " `kek` that belongs to this cluster"
                ) from error
            if len(self._opened) >= _MOST_OPENED:
                self._opened.clear()
            self._opened[name + row.wrapped] = known
        return known


def key_name(tenant: str, number: int) -> bytes:
    """What a data key is wrapped for."""
    return json.dumps(["orca data key 1", tenant, number]).encode()


def _value_name(tenant: str, project: str, name: str, version: int, data_key: int) -> bytes:
    return json.dumps(["orca secret 1", tenant, project, name, version, data_key]).encode()
