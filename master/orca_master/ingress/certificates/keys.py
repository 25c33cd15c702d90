"""Private keys of certificates: sealed in their rows, opened when they are sent to nodes, shown nowhere."""

from orca_common.env import Env
from orca_master.errors import NotReady, OrcaError
from orca_master.identity.sealing import seal, unseal
from orca_master.ingress.certificates.model import Certificate


class Keys:
    """`kek` None: this master has none, and no certificate can be kept."""

    def __init__(self, env: Env, kek: bytes | None) -> None:
        self._env = env
        self._kek = kek

    def sealed(self, tenant: str, name: str, key: bytes) -> bytes:
        """Raises NotReady."""
        return seal(self._env, self._wrapping(), _purpose(tenant, name), key)

    def open(self, row: Certificate) -> bytes:
        """Raises NotReady."""
        try:
            return unseal(self._wrapping(), _purpose(row.tenant, row.name), row.sealed_key)
        except NotReady:
            raise
        except OrcaError as error:
            raise NotReady(
                f"the key of certificate {row.name} does not open with this master's key: set it"
                f" again with `orca certs set {row.name}`"
            ) from error

    def _wrapping(self) -> bytes:
        if self._kek is None:
            raise NotReady("this master has no key-encryption key: it cannot keep certificates")
        return self._kek


def _purpose(tenant: str, name: str) -> str:
    return f"certificate {tenant} {name}"
