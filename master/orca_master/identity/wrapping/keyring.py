"""Small secrets in the replicated state: wrapped with a key-encryption key, bound to what they are for.

AES-256-GCM. The key lives in a file of its own on each master and never in the state. `purpose` is the
associated data, so that what is wrapped opens for nothing else. While the key is replaced there are two.
"""

import hashlib
from collections.abc import Iterable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from orca_common.env import Env
from orca_master.errors import NotReady
from orca_master.identity.wrapping.model import the_wrapping
from orca_master.state.table import View

KEK_BYTES = 32
_NONCE_BYTES = 12
_ID_OF = b"orca key-encryption key 1\0"


class Unopened(Exception):
    """None of this master's keys has wrapped this for this purpose: it was changed, or belongs elsewhere."""


class KeyAway(NotReady):
    """The key that has wrapped this is not here yet."""


class WrappingKey:
    """32 random bytes; `id` names them and tells nothing of them."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.id = hashlib.sha256(_ID_OF + raw).hexdigest()[:16]
        self._cipher = AESGCM(raw)

    def wrap(self, env: Env, purpose: bytes, secret: bytes) -> bytes:
        """Nonce and ciphertext."""
        nonce = env.random.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, secret, purpose)

    def unwrap(self, purpose: bytes, wrapped: bytes) -> bytes | None:
        """None: this key has not wrapped it for this purpose."""
        try:
            return self._cipher.decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], purpose)
        except (InvalidTag, ValueError):
            return None


class Keyring:
    """The keys that this master holds, in memory; none: it cannot use secrets.

    `doubt`: why what does not open now may do so later; empty: then it never will. `is_given`: the key
    comes from outside the data folder.
    """

    def __init__(
        self, env: Env, keys: Iterable[bytes] = (), *, is_given: bool = False, doubt: str = ""
    ) -> None:
        self._env = env
        self._keys: tuple[WrappingKey, ...] = ()
        self.is_given = is_given
        self.doubt = doubt
        self.keep(map(WrappingKey, keys))

    @property
    def keys(self) -> tuple[WrappingKey, ...]:
        return self._keys

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(key.id for key in self._keys)

    def keep(self, keys: Iterable[WrappingKey]) -> None:
        """These, and no others."""
        self._keys = tuple(keys)

    def find(self, id: str) -> WrappingKey | None:
        return next((key for key in self._keys if key.id == id), None)

    def current(self, view: View) -> WrappingKey:
        """The one that wraps now. Within a transaction it still does when that is committed.

        Raises NotReady."""
        if not self._keys:
            raise NotReady("this master has no key-encryption key: it cannot use secrets")
        wrapping = the_wrapping(view)
        if wrapping is None:
            return self._keys[0]
        found = self.find(wrapping.current)
        if found is None:
            raise KeyAway(self.doubt or _another_key(wrapping.current, self.ids))
        return found

    def wrap(self, view: View, purpose: bytes, secret: bytes) -> bytes:
        """With the key that wraps now. Raises NotReady."""
        return self.current(view).wrap(self._env, purpose, secret)

    def unwrap(self, purpose: bytes, wrapped: bytes) -> bytes:
        """Raises Unopened; NotReady, as far as it may open later."""
        if not self._keys:
            raise NotReady("this master has no key-encryption key: it cannot use secrets")
        for key in self._keys:
            found = key.unwrap(purpose, wrapped)
            if found is not None:
                return found
        if self.doubt:
            raise KeyAway(self.doubt)
        raise Unopened(f"this master's key ({', '.join(self.ids)}) has not wrapped it")


def _another_key(wanted: str, held: Iterable[str]) -> str:
    return f"the state is wrapped with key {wanted}, and this master has {', '.join(held)}"
