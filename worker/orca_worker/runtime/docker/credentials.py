"""Who asks a registry: the account that came with the task's list, else that of the worker's own
configuration, which is read again at each pull.

Passwords go from here into one header and nowhere else: not to a master, into a log or an error.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from docker import auth
from docker.errors import DockerException
from docker.utils.config import home_dir

from orca_proto.worker_pb2 import RegistryAccount
from orca_worker.runtime.port import RuntimeRefusal

DOCKER_HUB = "docker.io"


class Login(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One registry's account; a file keeps the password out of the configuration."""

    username: str
    password: str = ""
    password_file: str = ""

    def __post_init__(self) -> None:
        if bool(self.password) == bool(self.password_file):
            raise ValueError("give either password or password_file")

    def __repr__(self) -> str:
        return f"Login(username={self.username!r}, password=***)"


@dataclass(frozen=True, slots=True)
class Who:
    """`header`: the value of X-Registry-Auth, or None. `mend`: who that is, and what helps if the registry
    refuses it, for people."""

    header: str | None = field(repr=False)
    mend: str


class Credentials:
    """`logins` by registry (`host:port`, or docker.io); else a Docker `config.json`.

    Without a path it is the one of the worker's own user, if there is one.
    """

    def __init__(self, logins: Mapping[str, Login] | None = None, config_path: str = "") -> None:
        self._logins = dict(logins or {})
        self._config_path = config_path

    def who(self, registry: str, given: RegistryAccount | None = None) -> Who:
        """Who asks this registry; `given` goes before the node's own. Blocks. Raises RuntimeRefusal."""
        if given is not None:
            return _given(registry, given)
        account = self._own(registry)
        if not account:
            how = f'`orca registry login {registry}`, or registries."{registry}" of its worker'
            return Who(None, f"asked without an account: {how}")
        name = account.get("username") or account.get("Username") or "a token"
        how = f'mend registries."{registry}" or registry_config of its worker'
        told = f"asked as {name}, the node's own account: {how}, or use `orca registry login`"
        return Who(auth.encode_header(account).decode(), told)

    def _own(self, registry: str) -> dict[str, str] | None:
        login = self._logins.get(registry)
        try:
            return self._from_config(registry) if login is None else _account(registry, login)
        except (OSError, ValueError, DockerException) as error:
            # Not the error's text: a helper's may tell what it was given.
            raise RuntimeRefusal(
                f"this node's credentials for registry {registry} cannot be read "
                f"({type(error).__name__}): mend registries or registry_config of its worker"
            ) from None

    def _from_config(self, registry: str) -> dict[str, str] | None:
        if self._config_path:
            # load_config passes over a file that is not there, or is not JSON.
            json.loads(Path(self._config_path).read_bytes())
        elif not home_dir():
            return None
        found = auth.load_config(config_path=self._config_path or None)
        account: dict[str, str] | None = found.resolve_authconfig(
            None if registry == DOCKER_HUB else registry
        )
        return account


def _given(registry: str, given: RegistryAccount) -> Who:
    if given.lacks:
        raise RuntimeRefusal(given.lacks)
    account = {
        "username": given.username,
        "password": given.password,
        "serveraddress": registry,
    }
    scope = f" --project {given.scope}" if given.scope else ""
    told = f"asked as {given.username}: `orca registry login {registry}{scope}`"
    return Who(auth.encode_header(account).decode(), told)


def _account(registry: str, login: Login) -> dict[str, str]:
    password = login.password
    if login.password_file:
        password = Path(login.password_file).read_text().rstrip("\n")
    return {"username": login.username, "password": password, "serveraddress": registry}
