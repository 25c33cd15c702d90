"""Passwords of registries: sealed in their rows, opened where they are used, shown nowhere."""

from dataclasses import dataclass, field

from orca_common.env import Env
from orca_master.errors import NotReady, OrcaError
from orca_master.identity.registries.model import Login
from orca_master.identity.sealing import seal, unseal


@dataclass(frozen=True, slots=True)
class Account:
    """`scope`: the project that it is of; empty: the cluster's."""

    username: str
    password: str = field(repr=False)
    scope: str = ""


class Accounts:
    """`kek` None: this master has none, and no password can be kept."""

    def __init__(self, env: Env, kek: bytes | None) -> None:
        self._env = env
        self._kek = kek

    def sealed(self, tenant: str, project: str, host: str, password: str) -> bytes:
        """Raises NotReady."""
        return seal(self._env, self._key(), _purpose(tenant, project, host), password.encode())

    def open(self, login: Login) -> Account:
        """Raises NotReady."""
        purpose = _purpose(login.tenant, login.project, login.host)
        try:
            password = unseal(self._key(), purpose, login.ciphertext)
        except NotReady:
            raise
        except OrcaError as error:
            raise NotReady(
                f"the password for registry {login.host} does not open with this master's key:"
                f" set it again with `{command(login.host, login.project)}`"
            ) from error
        return Account(login.username, password.decode(), login.project)

    def _key(self) -> bytes:
        if self._kek is None:
            raise NotReady("this master has no key-encryption key: it cannot keep passwords")
        return self._kek


def command(host: str, project: str) -> str:
    """How people set it."""
    return f"orca registry login {host}" + (f" --project {project}" if project else "")


def _purpose(tenant: str, project: str, host: str) -> str:
    return f"registry {tenant} {project} {host}"
