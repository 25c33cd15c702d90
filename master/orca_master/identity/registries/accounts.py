"""Passwords of registries: sealed in their rows, opened where they are used, shown nowhere."""

from dataclasses import dataclass, field

from orca_master.errors import NotReady
from orca_master.identity.registries.model import Login
from orca_master.identity.wrapping.keyring import Keyring, Unopened
from orca_master.state.table import View


@dataclass(frozen=True, slots=True)
class Account:
    """`scope`: the project that it is of; empty: the cluster's."""

    username: str
    password: str = field(repr=False)
    scope: str = ""


class Accounts:
    """A `keyring` without a key: no password can be kept."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def sealed(self, view: View, tenant: str, project: str, host: str, password: str) -> bytes:
        """Raises NotReady."""
        return self._keyring.wrap(view, purpose(tenant, project, host), password.encode())

    def open(self, login: Login) -> Account:
        """Raises NotReady."""
        for_this = purpose(login.tenant, login.project, login.host)
        try:
            password = self._keyring.unwrap(for_this, login.ciphertext)
        except Unopened as error:
            raise NotReady(
                f"the password for registry {login.host} does not open with this master's key:"
                f" set it again with `{command(login.host, login.project)}`"
            ) from error
        return Account(login.username, password.decode(), login.project)


def command(host: str, project: str) -> str:
    """How people set it."""
    return f"orca registry login {host}" + (f" --project {project}" if project else "")


def purpose(tenant: str, project: str, host: str) -> bytes:
    """What a password is wrapped for."""
    return f"registry {tenant} {project} {host}".encode()
