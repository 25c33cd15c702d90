"""Small secrets in the replicated state: ciphertext only, bound to what they are for.

AES-256-GCM under the key-encryption key, which lives in a file of its own on each master and never in the
state. `purpose` is the associated data, so that a ciphertext opens for nothing else.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from orca_common.env import Env
from orca_master.errors import OrcaError

_NONCE_BYTES = 12


def seal(env: Env, kek: bytes, purpose: str, secret: bytes) -> bytes:
    """Nonce and ciphertext."""
    nonce = env.random.token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(kek).encrypt(nonce, secret, purpose.encode())


def unseal(kek: bytes, purpose: str, sealed: bytes) -> bytes:
    """Raises OrcaError for what this key did not seal for this purpose."""
    nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
    try:
        return AESGCM(kek).decrypt(nonce, rest, purpose.encode())
    except InvalidTag as error:
        raise OrcaError(
            f"what is kept for {purpose} does not open with this cluster's key"
        ) from error
