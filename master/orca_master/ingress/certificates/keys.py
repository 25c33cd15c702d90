"""Private keys of certificates, and of the account that orders them: wrapped in their rows, shown nowhere.

Those of certificates are opened when they are sent to nodes, that of the account when something is ordered.
"""

from orca_master.errors import NotReady
from orca_master.identity.wrapping.keyring import Keyring, Unopened
from orca_master.ingress.certificates.model import Acme, Certificate
from orca_master.state.table import View


class Keys:
    """A `keyring` without a key: no certificate can be kept."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def sealed(self, view: View, tenant: str, name: str, key: bytes) -> bytes:
        """Raises NotReady."""
        return self._keyring.wrap(view, purpose(tenant, name), key)

    def open(self, row: Certificate) -> bytes:
        """Raises NotReady."""
        try:
            return self._keyring.unwrap(purpose(row.tenant, row.name), row.sealed_key)
        except Unopened as error:
            raise NotReady(
                f"the key of certificate {row.name} does not open with this master's key: set it"
                f" again with `orca certs set {row.name}`"
            ) from error

    def sealed_account(self, view: View, tenant: str, key: bytes) -> bytes:
        """Raises NotReady."""
        return self._keyring.wrap(view, account_purpose(tenant), key)

    def open_account(self, row: Acme) -> bytes:
        """Raises NotReady."""
        try:
            return self._keyring.unwrap(account_purpose(row.tenant), row.sealed_key)
        except Unopened as error:
            raise NotReady(
                "the key of the ACME account does not open with this master's key: make another one"
                " with `orca certs acme off`, then `orca certs acme on`"
            ) from error


def purpose(tenant: str, name: str) -> bytes:
    """What a key is wrapped for."""
    return f"certificate {tenant} {name}".encode()


def account_purpose(tenant: str) -> bytes:
    return f"acme account {tenant}".encode()
