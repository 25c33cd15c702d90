"""The endpoints of secrets. No answer, and nothing that is kept of a request, holds a value."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from orca_master.audit.operations import trail
from orca_master.errors import Conflict, Invalid, NotFound, Problem
from orca_master.http.dialects import CLUSTER
from orca_master.http.route import Call, NoQuery, Reply, Route
from orca_master.http.scopes import VisibleQuery
from orca_master.identity.model import Permission
from orca_master.identity.secrets import operations as secrets
from orca_master.identity.secrets.model import SECRETS, Secret, shown
from orca_master.identity.secrets.templates import check_key
from orca_master.identity.secrets.vault import Vault
from orca_master.services.changes import Changes
from orca_master.services.rollouts.model import REVISIONS
from orca_master.services.secrets import operations
from orca_master.services.secrets.answers import (
    DataKeyOut,
    SecretOut,
    SecretRemoved,
    SecretSet,
    SecretsOut,
    UsageOut,
    UsagesOut,
    UserOut,
)
from orca_master.services.secrets.payload import RemoveQuery, SecretIn
from orca_master.state.transaction import Transaction, View

LOOKS = 10
EXAMPLE = {"value": "correct horse battery staple", "project": "shop"}


@dataclass(frozen=True, slots=True)
class SecretRoutes:
    """None takes an `Idempotency-Key`: what is kept of a request under it would be a hash of the value."""

    changes: Changes
    vault: Vault

    def table(self) -> list[Route]:
        route = partial(Route, dialect=CLUSTER, tag="secrets")
        path = "/api/v1/secrets"
        reads, writes = Permission.SECRETS_READ, Permission.SECRETS_WRITE
        return [
            route(
                f"GET {path}",
                reads,
                self.list,
                "Secrets, without values",
                query=VisibleQuery,
                answer=SecretsOut,
            ),
            route(
                f"GET {path}/usage",
                reads,
                self.usage,
                "Who uses which version of each secret",
                query=VisibleQuery,
                answer=UsagesOut,
            ),
            route(
                f"PUT {path}/{{key}}",
                writes,
                self.put,
                "Set a secret, and roll out who uses it",
                body=SecretIn,
                answer=SecretSet,
                example=EXAMPLE,
            ),
            route(
                f"DELETE {path}/{{key}}",
                writes,
                self.remove,
                "Remove a secret with all of its versions",
                query=RemoveQuery,
                answer=SecretRemoved,
            ),
            route(
                f"POST {path}/rotate-key",
                Permission.MASTERS_WRITE,
                self.rotate_key,
                "Seal all secrets with a new data key",
                statuses=(202,),
                answer=DataKeyOut,
            ),
        ]

    async def list(self, call: Call[VisibleQuery, None]) -> SecretsOut:
        state = await self.changes.store.fresh()
        project = call.scope(call.query.project)
        found = [
            _secret_out(state, secret)
            for secret in state.find(SECRETS, "tenant", call.tenant)
            if secret.current and project in (None, secret.project or project)
        ]
        return SecretsOut(found, _data_key_out(state, call.tenant))

    async def usage(self, call: Call[VisibleQuery, None]) -> UsagesOut:
        state = await self.changes.store.fresh()
        project = call.scope(call.query.project)
        using = operations.users(state, call.tenant)
        current = {
            (s.project, s.key): s.current for s in state.find(SECRETS, "tenant", call.tenant)
        }
        named = {scoped for scoped, version in current.items() if version}
        named |= {scoped for scoped, each in using.items() if any(u.is_needing for u in each)}
        found = [
            UsageOut(
                key=key,
                project=scope or None,
                version=current.get((scope, key)) or None,
                users=_users_out(using.get((scope, key), []), project),
            )
            for scope, key in sorted(named)
            if project in (None, scope or project)
        ]
        return UsagesOut(found)

    async def put(self, call: Call[NoQuery, SecretIn]) -> SecretSet:
        key, value, roll = _key(call), call.body.raw(), call.body.roll
        project, tenant, now = call.scope(call.body.project) or "", call.tenant, self._now()

        # Looking at all revisions takes too long for a transaction. Who begins to use the secret
        # meanwhile uses its current version, which is kept.
        seen = await self.changes.store.fresh()
        using = operations.users_of(seen, tenant, project, key)
        secrets.check_room(seen, tenant, project, key, len(value))
        if not secrets.is_text(value):
            operations.check_fits_env(using, key)
        used = {version for user in using for version in user.kept}

        def put(tx: Transaction) -> tuple[Secret, bool]:
            secret, changed = secrets.set_secret(
                tx,
                self.vault,
                tenant=tenant,
                project=project,
                key=key,
                value=value,
                used=used,
                roll=roll,
                by=call.actor,
                now=now,
            )
            version = secret.current
            self._note(tx, call, "set", project, key, version=version, changed=changed, roll=roll)
            return secret, changed

        secret, changed = await self.changes.store.update(put)
        old = operations.names(operations.outdated(seen, secret))
        return SecretSet(
            key=key,
            project=project or None,
            version=secret.current,
            changed=changed,
            rolling=old if roll else [],
            outdated=[] if roll else old,
        )

    async def remove(self, call: Call[RemoveQuery, None]) -> SecretRemoved:
        key, tenant, query = _key(call), call.tenant, call.query
        project = call.scope(query.project) or ""

        def remove(tx: Transaction) -> bool:
            if not tx.state.has_same(seen, REVISIONS):
                return False
            secrets.remove_secret(
                tx, tenant=tenant, project=project, key=key, is_referred_to=bool(using)
            )
            self._note(tx, call, "remove", project, key, force=query.force)
            return True

        for _ in range(LOOKS):
            seen = await self.changes.store.fresh()
            using = operations.users_of(seen, tenant, project, key)
            if secrets.current_of(seen, tenant, project, key) is None:
                raise NotFound("secret", shown(project, key))
            if not query.force:
                operations.check_unused(using, key)
            if await self.changes.store.update(remove):
                users = operations.names(user.service for user in using if user.is_needing)
                return SecretRemoved(f"removed secret {shown(project, key)}", users)
        raise Conflict("services are being changed just now: ask again")

    async def rotate_key(self, call: Call[NoQuery, None]) -> Reply:
        def rotate(tx: Transaction) -> None:
            made = secrets.rotate_key(tx, self.vault, call.tenant, by=call.actor)
            resource = f"secrets/data-keys/{made.number}"
            now = self._now()
            trail(tx, actor=call.actor, action="secret.rotate-key", resource=resource, now=now)

        await self.changes.store.update(rotate)
        return Reply(_data_key_out(self.changes.store.state, call.tenant), 202)

    def _now(self) -> float:
        return self.changes.env.now()

    def _note(
        self,
        tx: Transaction,
        call: Call[Any, Any],
        verb: str,
        project: str,
        key: str,
        **told: object,
    ) -> None:
        resource = f"secrets/{project or '-'}/{key}"
        action, now = f"secret.{verb}", self._now()
        trail(tx, actor=call.actor, action=action, resource=resource, now=now, **told)


def _key(call: Call[Any, Any]) -> str:
    """Raises Invalid."""
    try:
        return check_key(call.path["key"])
    except ValueError as error:
        raise Invalid([Problem("key", str(error))]) from error


def _secret_out(view: View, secret: Secret) -> SecretOut:
    versions = secrets.versions_of(view, secret.tenant, secret.project, secret.key)
    current = next(row for row in versions if row.version == secret.current)
    return SecretOut(
        key=secret.key,
        project=secret.project or None,
        version=secret.current,
        versions=[row.version for row in versions],
        size=current.size,
        text=current.is_text,
        made_at=current.made_at,
        by=current.by,
    )


def _data_key_out(view: View, tenant: str) -> DataKeyOut:
    known = secrets.data_keys(view, tenant)
    if not known:
        return DataKeyOut(0, None, 0)
    left = len(secrets.left_to_seal(view, tenant))
    return DataKeyOut(known[-1].number, known[-1].made_at, left)


def _users_out(users: "list[operations.User]", project: str | None) -> "list[UserOut]":
    return [
        UserOut(user.service.name, user.service.project, user.wanted, sorted(user.running))
        for user in sorted(users, key=lambda user: user.service.key)
        if user.is_needing and project in (None, user.service.project)
    ]
