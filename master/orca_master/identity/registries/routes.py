"""The endpoints of registries. No answer, and nothing that is kept of a request, holds a password."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from orca_common.env import Env
from orca_master.audit.operations import trail
from orca_master.errors import Invalid, NotReady, Problem
from orca_master.http.dialects import CLUSTER
from orca_master.http.route import Call, NoQuery, Route
from orca_master.http.scopes import ScopeQuery, VisibleQuery
from orca_master.identity.model import Permission
from orca_master.identity.registries import client, operations
from orca_master.identity.registries.accounts import Account, Accounts
from orca_master.identity.registries.answers import (
    RegistriesOut,
    RegistryOut,
    RegistryRemoved,
    RegistrySet,
)
from orca_master.identity.registries.model import LOGINS, Login
from orca_master.identity.registries.payload import RegistryIn
from orca_master.identity.registries.reference import check_host
from orca_master.state.store import Store
from orca_master.state.transaction import Transaction

EXAMPLE = {"username": "puller", "password": "correct horse battery staple", "project": "shop"}


@dataclass(frozen=True, slots=True)
class RegistryRoutes:
    """None takes an `Idempotency-Key`: what is kept of a request under it would be a hash of the password."""

    env: Env
    store: Store
    accounts: Accounts

    def table(self) -> list[Route]:
        route = partial(Route, dialect=CLUSTER, tag="registries")
        path = "/api/v1/registries"
        reads, writes = Permission.SECRETS_READ, Permission.SECRETS_WRITE
        return [
            route(
                f"GET {path}",
                reads,
                self.list,
                "Accounts at registries, without passwords",
                query=VisibleQuery,
                answer=RegistriesOut,
            ),
            route(
                f"PUT {path}/{{host}}",
                writes,
                self.put,
                "Set the account that is used at a registry",
                body=RegistryIn,
                answer=RegistrySet,
                example=EXAMPLE,
            ),
            route(
                f"DELETE {path}/{{host}}",
                writes,
                self.remove,
                "Forget an account",
                query=ScopeQuery,
                answer=RegistryRemoved,
            ),
        ]

    async def list(self, call: Call[VisibleQuery, None]) -> RegistriesOut:
        state = await self.store.fresh()
        project = call.scope(call.query.project)
        found = [
            RegistryOut(login.host, login.project or None, login.username, login.made_at, login.by)
            for login in operations.logins_of(state, call.tenant)
            if project in (None, login.project or project)
        ]
        return RegistriesOut(found)

    async def put(self, call: Call[NoQuery, RegistryIn]) -> RegistrySet:
        host, project, tenant = _host(call), call.scope(call.body.project) or "", call.tenant
        account = Account(call.body.username, call.body.password.get_secret_value(), project)
        unknown = await self._why_unchecked(host, account) if call.body.check else "not asked"
        username, now = account.username, self.env.now()

        def put(tx: Transaction) -> bool:
            before = tx.get(LOGINS, tenant, project, host)
            changed = before is None or not self._is_same(before, account)
            if changed:
                sealed = self.accounts.sealed(tx, tenant, project, host, account.password)
                login = Login(tenant, project, host, username, sealed, now, call.actor)
                operations.set_login(tx, login)
            self._note(tx, call, "set", (project, host), username=username, changed=changed)
            return changed

        changed = await self.store.update(put)
        return RegistrySet(
            host=host,
            project=project or None,
            username=account.username,
            changed=changed,
            checked=not unknown,
            reason=unknown or None,
        )

    async def remove(self, call: Call[ScopeQuery, None]) -> RegistryRemoved:
        host, project = _host(call), call.scope(call.query.project) or ""

        def remove(tx: Transaction) -> None:
            operations.remove_login(tx, call.tenant, project, host)
            self._note(tx, call, "remove", (project, host))

        await self.store.update(remove)
        whose = f"project {project}" if project else "the cluster"
        return RegistryRemoved(f"forgot the account of {whose} at registry {host}")

    async def _why_unchecked(self, host: str, account: Account) -> str:
        """Why it is not known whether the registry lets the account in; empty: it does. Raises Invalid."""
        try:
            await client.check(host, account)
        except client.WrongAccount as error:
            told = f"registry {host} does not let {account.username} in with this: {error}"
            raise Invalid([Problem("password", told)]) from None
        except NotReady as error:
            return error.message
        return ""

    def _is_same(self, login: Login, account: Account) -> bool:
        """What cannot be opened is another one."""
        try:
            return self.accounts.open(login) == account
        except NotReady:
            return False

    def _note(
        self,
        tx: Transaction,
        call: Call[Any, Any],
        verb: str,
        where: tuple[str, str],
        **told: object,
    ) -> None:
        project, host = where
        resource, now = f"registries/{project or '-'}/{host}", self.env.now()
        trail(tx, actor=call.actor, action=f"registry.{verb}", resource=resource, now=now, **told)


def _host(call: Call[Any, Any]) -> str:
    """Raises Invalid."""
    try:
        return check_host(call.path["host"])
    except ValueError as error:
        raise Invalid([Problem("host", str(error))]) from error
