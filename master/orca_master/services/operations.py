"""The verbs of services."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from orca_master.cluster.model import NODES, NodeState
from orca_master.cluster.operations import (
    down_nodes,
    drained_nodes,
    next_deadline,
    overdue_nodes,
)
from orca_master.errors import Ambiguous, Conflict, NotFound
from orca_master.identity.secrets.model import SecretUse
from orca_master.identity.secrets.operations import find_uses, version_of
from orca_master.services import fetching, images
from orca_master.services.dependencies import waiting_for
from orca_master.services.fenced import may_run, reconcile_fenced
from orca_master.services.model import (
    FENCING_TOKENS,
    SERVICES,
    FencingTokens,
    Policy,
    Service,
    ServiceSpec,
    key_of_owner,
)
from orca_master.services.reconcile import Create, Plan, Target, reconcile
from orca_master.services.rollouts import operations as rollouts
from orca_master.services.rollouts.lanes import lanes
from orca_master.services.rollouts.model import Kind
from orca_master.services.strategy import Strategy
from orca_master.state.transaction import Transaction, View
from orca_master.tasks import operations as tasks
from orca_master.tasks.model import HOMES, TASKS, Probe, Task, TaskSpec, Wanted
from orca_master.tasks.secrets import oversize

CHANGES_AT_ONCE = 50
"""Tasks of one service that one transaction makes or stops; the change brings the next look."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a deploy made of one service. `changed` is False for an equal spec and count."""

    service: Service
    changed: bool


def deploy(
    tx: Transaction,
    *,
    tenant: str,
    project: str,
    name: str,
    spec: ServiceSpec,
    replicas: int,
    now: float,
    policy: Policy = Policy(),  # noqa: B008
    by: str = "",
    message: str = "",
) -> Accepted:
    """Want this service to run. An equal spec keeps the revision; tasks that wait for their next
    try are tried again now. The spec that an open rollout came from takes it back there."""
    before = tx.get(SERVICES, tenant, project, name)
    if before is None:
        before = Service(tenant, project, name, spec, replicas, 0, now, now, policy=policy)
    elif _is_wanted(before, spec, replicas, policy) and not _has_newer_secrets(tx, before):
        _try_again_now(tx, before)
        return Accepted(before, changed=False)
    after = replace(
        before, replicas=replicas, stopped=False, purge=False, updated_at=now, policy=policy
    )
    after = _waiting_from(before, after)
    if not before.revision or before.spec != spec or _has_newer_secrets(tx, before):
        after = _new_revision(tx, after, spec, now=now, by=by, message=message)
    tx.put(SERVICES, after)
    _try_again_now(tx, after)
    return Accepted(after, changed=True)


def _new_revision(
    tx: Transaction, service: Service, spec: ServiceSpec, *, now: float, by: str, message: str
) -> Service:
    """`service` with its new spec, under a number, and the rollout that leads there."""
    going = rollouts.open_deployment(tx, service)
    if going is not None and going.base and _is_like(tx, service, going.base, spec):
        return rollouts.return_home(tx, service, going, now)
    base = rollouts.base_of(tx, service)
    service = replace(service, spec=spec)
    service = rollouts.keep_revision(tx, service, now=now, by=by, message=message)
    return rollouts.begin(tx, service, kind=Kind.DEPLOY, now=now, by=by, message=message, base=base)


def _is_like(view: View, service: Service, number: int, spec: ServiceSpec) -> bool:
    """Whether this revision is this spec, with its secrets as they are now."""
    if rollouts.spec_of(view, service, number) != spec:
        return False
    uses, _ = find_uses(view, service.tenant, service.project, spec.secret_keys)
    return uses == rollouts.secrets_of(view, service, number)


def _has_newer_secrets(view: View, service: Service) -> bool:
    return not _is_like(view, service, service.revision, service.spec)


def lacking(view: View, *, tenant: str, project: str, spec: ServiceSpec) -> list[str]:
    """Why secrets keep this from being deployed: one sentence for each."""
    keys = spec.secret_keys
    if not keys:
        return []
    uses, missing = find_uses(view, tenant, project, keys)
    said = [each.reason for each in missing]
    in_env = spec.secret_keys_of_env
    for use in uses:
        row = version_of(view, use)
        if use.key in in_env and row is not None and not row.is_text:
            said.append(f"secret {use.name} is no text: give it in files, not in env")
    too_large = oversize(view, task_spec(spec, uses))
    return said + ([too_large] if too_large else [])


def _is_wanted(service: Service, spec: ServiceSpec, replicas: int, policy: Policy) -> bool:
    """Whether this is wanted of it already."""
    is_running = not service.stopped and not service.purge
    wanted = service.replicas, service.spec, service.policy
    return is_running and wanted == (replicas, spec, policy)


def _try_again_now(tx: Transaction, service: Service) -> None:
    for task in tx.find(TASKS, "owner", service.owner):
        if task.wanted is not Wanted.RUN or task.revision != service.revision:
            continue
        if task.observed.state.is_over:
            tasks.stop(tx, task)
        elif not task.node and task.not_before > 0:
            tasks.forget(tx, task)


def scale(
    tx: Transaction, *, tenant: str, name: str, project: str | None, replicas: int, now: float
) -> Service:
    """Change the number of replicas; a stopped service is started by a number above zero."""
    service = resolve(tx, tenant, name, project)
    stopped = service.stopped and replicas == 0
    if (service.replicas, service.stopped) != (replicas, stopped):
        after = replace(service, replicas=replicas, stopped=stopped, updated_at=now)
        service = _waiting_from(service, after)
        tx.put(SERVICES, service)
    return service


def _waiting_from(before: Service, after: Service) -> Service:
    """`after`; where nothing was wanted before, it waits again for what it depends on."""
    return after if before.wanted_replicas else replace(after, waits=rollouts.must_wait(after))


def start(tx: Transaction, service: Service, *, now: float) -> Service:
    """Run a stopped service again, as many replicas as it had. Raises Conflict."""
    if service.purge:
        raise Conflict(f"service {service.name} is being removed; deploy it again")
    if service.stopped:
        service = _waiting_from(service, replace(service, stopped=False, updated_at=now))
        tx.put(SERVICES, service)
    return service


def stop(tx: Transaction, service: Service, *, purge: bool, now: float) -> None:
    """Run nothing of it any more. With `purge`, forget it too once nothing of it is left."""
    if service.stopped and service.purge >= purge:
        return
    service = rollouts.cancel(tx, service, "the service was stopped", now)
    tx.put(
        SERVICES,
        replace(service, stopped=True, purge=service.purge or purge, updated_at=now, waits=False),
    )


def resolve(view: View, tenant: str, name: str, project: str | None) -> Service:
    """A service by its name, and its project where the bare name is ambiguous.

    Raises NotFound, Ambiguous.
    """
    if project is not None:
        service = view.get(SERVICES, tenant, project, name)
        if service is None:
            raise NotFound("service", f"{name} in project {project}")
        return service
    found = view.find(SERVICES, "name", f"{tenant}/{name}")
    if not found:
        raise NotFound("service", name)
    if len(found) > 1:
        raise Ambiguous("service", name, [service.project for service in found])
    return found[0]


def _no_lease_ends(node_id: str) -> float:
    return math.inf


def reconcile_owner(
    tx: Transaction,
    owner: str,
    *,
    now: float,
    new_id: Callable[[], str],
    lease_left: Callable[[str], float] = _no_lease_ends,
) -> float | None:
    """Bring one service's tasks a step nearer to what is wanted. `lease_left`: for how many seconds more
    something fenced may run on this node, if it was lost (`Leases.left`).

    Returns when to look again (Unix seconds) if nothing changes before, or None.
    """
    mine = tx.find(TASKS, "owner", owner)
    left = _left_where_lost(tx, mine, lease_left)
    lapsed = {node for node, seconds in left.items() if seconds <= 0}
    waits = [now + seconds for seconds in left.values() if 0 < seconds < math.inf]
    for task in mine:
        if task.node in lapsed and tx.get(NODES, task.node) is None:
            tasks.forget(tx, task)
    mine = tx.find(TASKS, "owner", owner)
    service = tx.get(SERVICES, *key_of_owner(owner))
    if service is None:
        fetching.stop_all(tx, owner)
        for task in [t for t in mine if t.wanted is Wanted.RUN][:CHANGES_AT_ONCE]:
            tasks.stop(tx, task)
        return min(waits, default=None)
    if service.purge and not mine:
        tx.delete(SERVICES, service.tenant, service.project, service.name)
        tasks.forget_homes(tx, tx.find(HOMES, "owner", owner))
        rollouts.forget(tx, service)
        return None
    images.settle(tx, service, mine, now=now)
    mine = tx.find(TASKS, "owner", owner)
    if service.waits and not waiting_for(tx, service):
        service = rollouts.release(tx, service, now)
    service = fetching.tend(tx, service, mine, now, new_id)
    waits += fetching.next_tries(tx, owner, now)
    service, target, look_at = _target(tx, service, mine, now)
    waits += [look_at] if look_at < math.inf else []
    plan = _plan(tx, service, target, mine, lapsed, now)
    going = rollouts.open_deployment(tx, service)
    if service.waits or (going is not None and rollouts.is_untouched(going)):
        plan.create = [wanted for wanted in plan.create if _is_replacement(wanted, mine)]
    _take(tx, service, plan, now=now, new_id=new_id)
    return _next_look(tx, tx.find(TASKS, "owner", owner), waits, now)


def _is_replacement(wanted: Create, mine: Sequence[Task]) -> bool:
    """Whether its slot has run this revision: only what is new waits for others."""
    return any((task.slot, task.revision) == (wanted.slot, wanted.revision) for task in mine)


def _target(
    tx: Transaction, service: Service, mine: Sequence[Task], now: float
) -> tuple[Service, Target, float]:
    """What is wanted after the rollout has got on by a step; and when to look again."""
    down = down_nodes(tx)
    service, deployment, look_at = rollouts.tend(tx, service, mine, down, now)
    policy = service.policy
    target = Target(
        service.revision,
        service.wanted_replicas,
        stop_first=bool(service.spec.host_port),
        max_moving=policy.drain_max_parallel,
        reconnect=policy.reconnect,
    )
    if deployment is None:
        return service, target, look_at
    scene = rollouts.scene_of(tx, service, deployment, mine, down=down, now=now)
    found = dataclasses.replace(target, lanes=lanes(deployment, policy.rollout, scene))
    if not deployment.state.is_over:
        found = dataclasses.replace(
            found,
            stop_first=deployment.stop_first,
            settle=scene.settle,
            proven=scene.proven,
            clear_first=deployment.strategy is Strategy.RECREATE,
        )
    return service, found, look_at


def _plan(
    tx: Transaction,
    service: Service,
    target: Target,
    mine: Sequence[Task],
    lapsed: set[str],
    now: float,
) -> Plan:
    drained, overdue = drained_nodes(tx), overdue_nodes(tx, now)
    # Also a service that is fenced no longer: what is left of the time when it was.
    if service.spec.fence or any(task.fencing_token for task in mine):
        return reconcile_fenced(target, mine, lapsed, now, drained=drained, overdue=overdue)
    return reconcile(target, mine, down_nodes(tx), now, drained=drained, overdue=overdue)


def _take(
    tx: Transaction, service: Service, plan: Plan, *, now: float, new_id: Callable[[], str]
) -> None:
    for task in plan.stop[:CHANGES_AT_ONCE]:
        tasks.stop(tx, task)
    for wanted in plan.create[:CHANGES_AT_ONCE]:
        _create(tx, service, wanted, now=now, id=new_id())


def _create(tx: Transaction, service: Service, wanted: Create, *, now: float, id: str) -> None:
    spec = rollouts.spec_of(tx, service, wanted.revision)
    if spec is None:
        return
    tasks.create(
        tx,
        id=id,
        owner=service.owner,
        project=service.project,
        name=service.name,
        revision=wanted.revision,
        slot=wanted.slot,
        spec=task_spec(
            images.pinned(tx, service, wanted.revision, spec),
            rollouts.secrets_of(tx, service, wanted.revision),
        ),
        constraints=spec.constraints,
        now=now,
        attempt=wanted.attempt,
        not_before=wanted.not_before,
        last_failure=wanted.last_failure,
        generation=wanted.generation,
        fencing_token=_next_token(tx, service.owner) if spec.fence else 0,
    )


def _next_token(tx: Transaction, owner: str) -> int:
    """Higher than every one that the service ever had, also before it was purged."""
    before = tx.get(FENCING_TOKENS, owner)
    token = 1 + (before.last if before is not None else 0)
    tx.put(FENCING_TOKENS, FencingTokens(owner, token))
    return token


def _left_where_lost(
    view: View, mine: Sequence[Task], lease_left: Callable[[str], float]
) -> dict[str, float]:
    """For nodes that are down, or were removed: how long something fenced of these may go on there.
    What is not fenced counts as lost at once."""
    fenced = {task.node for task in mine if task.fencing_token and may_run(task)}
    left: dict[str, float] = {}
    for id in {task.node for task in mine if may_run(task)}:
        node = view.get(NODES, id)
        if node is None or node.state is NodeState.DOWN:
            left[id] = lease_left(id) if id in fenced else 0.0
    return left


def _next_look(view: View, mine: Sequence[Task], waiting: list[float], now: float) -> float | None:
    waiting += [task.not_before for task in mine if not task.node and task.not_before > now]
    deadline = next_deadline(view, now)
    if deadline is not None:
        waiting.append(deadline)
    return min(waiting, default=None)


def task_spec(spec: ServiceSpec, secrets: tuple[SecretUse, ...] = ()) -> TaskSpec:
    """What a node needs to know to run one replica."""
    health = Probe(path=spec.health) if spec.health else None
    return TaskSpec(
        runtime=spec.runtime,
        image=spec.image,
        command=spec.command,
        env=spec.env,
        memory_bytes=spec.memory_bytes,
        cpu_millis=spec.cpu_millis,
        port=spec.port,
        host_port=spec.host_port,
        startup=spec.startup,
        readiness=spec.readiness or health,
        liveness=spec.liveness or health,
        stop_grace_seconds=spec.stop_grace_seconds,
        stop_delay_seconds=spec.stop_delay_seconds,
        published=spec.published,
        pull_policy=spec.pull_policy,
        user=spec.user,
        workdir=spec.workdir,
        stop_signal=spec.stop_signal,
        log_bytes=spec.log_bytes,
        log_files=spec.log_files,
        container=spec.container,
        files=spec.files,
        secrets=secrets,
    )
