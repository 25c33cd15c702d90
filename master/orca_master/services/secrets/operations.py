"""Who uses a secret, and how a new value of it reaches them."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from msgspec.structs import replace

from orca_master.errors import Conflict
from orca_master.identity.secrets.model import CLUSTER_SCOPE, SECRETS, Secret, SecretUse
from orca_master.identity.secrets.operations import current_of
from orca_master.services.model import SERVICES, Service
from orca_master.services.rollouts import operations as rollouts
from orca_master.services.rollouts.model import REVISIONS, Kind
from orca_master.state.transaction import Transaction, View
from orca_master.tasks.model import TASKS


@dataclass(slots=True)
class User:
    """A service and a secret. `wanted`: the version of its revision (None: it needs it no more); `running`:
    those of its replicas; `kept`: those of all revisions that it could go back to."""

    service: Service
    wanted: int | None = None
    running: set[int] = field(default_factory=set)
    kept: set[int] = field(default_factory=set)

    @property
    def is_needing(self) -> bool:
        return self.wanted is not None or bool(self.running)


Scoped = tuple[str, str]
"""(project, key) of a secret."""


def users(view: View, tenant: str) -> dict[Scoped, list[User]]:
    """Of each secret that any revision names, also of those that were removed."""
    found: dict[Scoped, dict[tuple[str, str], User]] = {}
    running: dict[tuple[str, str], set[int]] = {}
    for revision in view.find(REVISIONS, "secrets", tenant):
        name = revision.project, revision.service
        service = view.get(SERVICES, tenant, *name)
        if service is None:
            continue
        if name not in running:
            mine = view.find(TASKS, "owner", service.owner)
            running[name] = {task.revision for task in mine if not task.observed.state.is_over}
        for use in revision.secrets:
            user = found.setdefault((use.project, use.key), {}).setdefault(name, User(service))
            user.kept.add(use.version)
            if revision.number == service.revision:
                user.wanted = use.version
            if revision.number in running[name]:
                user.running.add(use.version)
    return {scoped: list(each.values()) for scoped, each in found.items()}


def users_of(view: View, tenant: str, project: str, key: str) -> list[User]:
    return users(view, tenant).get((project, key), [])


def names(services: Iterable[Service]) -> list[str]:
    """Sorted; with the project where that is not the default one."""
    return sorted(
        service.name if service.project == "default" else f"{service.project}/{service.name}"
        for service in services
    )


def outdated(view: View, secret: Secret) -> list[Service]:
    """Services whose wanted revision has another version than they would get now of this secret."""
    found = []
    for revision in view.find(REVISIONS, "secrets", secret.tenant):
        if not any(use.key == secret.key for use in revision.secrets):
            continue
        service = view.get(SERVICES, secret.tenant, revision.project, revision.service)
        is_wanted = service is not None and service.revision == revision.number
        if service is not None and is_wanted and is_outdated(view, service, secret):
            found.append(service)
    return found


def is_outdated(view: View, service: Service, secret: Secret) -> bool:
    now = SecretUse(secret.tenant, secret.project, secret.key, secret.current)
    uses = rollouts.secrets_of(view, service, service.revision)
    use = next((use for use in uses if use.key == secret.key), None)
    if service.purge or use is None or use == now:
        return False
    own = current_of(view, secret.tenant, service.project, secret.key)
    return secret.project == service.project or (secret.project == CLUSTER_SCOPE and own is None)


def check_fits_env(using: Iterable[User], key: str) -> None:
    """Whether the secret may become one that is no text. Raises Conflict."""
    wanting = [user.service for user in using if user.wanted]
    in_env = [service for service in wanting if key in service.spec.secret_keys_of_env]
    if in_env:
        raise Conflict(
            f"secret {key} is in the env of {', '.join(names(in_env))}, where only text without NUL"
            " fits: give it in files first"
        )


def check_unused(using: Iterable[User], key: str) -> None:
    """Raises Conflict, which names who uses it."""
    needing = [user.service for user in using if user.is_needing]
    if needing:
        raise Conflict(
            f"secret {key} is used by {', '.join(names(needing))}: remove it there first, or say"
            " force, and the next replicas of these will fail"
        )


def roll(tx: Transaction, service: Service, secret: Secret, *, now: float) -> bool:
    """A new revision of the same spec with its secrets as they are now, and the rollout that leads there.

    False: it has the newest already. Raises Conflict when another secret of it is missing.
    """
    present = tx.get(SERVICES, *service.key)
    newest = tx.get(SECRETS, secret.tenant, secret.project, secret.key)
    if present is None or newest is None or not newest.current:
        return False
    if not is_outdated(tx, present, newest):
        return False
    base = rollouts.base_of(tx, present)
    message = f"secret {secret.key} changed"
    after = rollouts.keep_revision(tx, present, now=now, by=secret.by, message=message)
    after = rollouts.begin(
        tx,
        replace(after, updated_at=now),
        kind=Kind.RESTART,
        now=now,
        by=secret.by,
        message=message,
        base=base,
    )
    tx.put(SERVICES, after)
    return True


def removed_for_good(view: View) -> list[Secret]:
    """Secrets that were removed, and that no revision names any more."""
    gone = view.find(SECRETS, "removed", "yes")
    if not gone:
        return []
    named = {tenant: users(view, tenant) for tenant in {secret.tenant for secret in gone}}
    return [s for s in gone if (s.project, s.key) not in named[s.tenant]]
