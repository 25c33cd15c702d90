"""What is true of services, in the words of API document 002 (and more fields besides). Pure."""

from collections.abc import Collection, Sequence

import msgspec
from msgspec.structs import replace

from orca_master.cluster.model import NODES
from orca_master.cluster.operations import down_nodes
from orca_master.services.answers import RolloutOut, ServiceOut, TaskOut
from orca_master.services.dependencies import waiting_for
from orca_master.services.model import SERVICES, Service
from orca_master.services.rollouts.advance import weight
from orca_master.services.rollouts.model import DEPLOYMENTS, Deployment
from orca_master.services.rollouts.operations import open_deployment
from orca_master.services.strategy import Strategy
from orca_master.state.rows import State
from orca_master.state.transaction import View
from orca_master.tasks.endings import describe_end, signal_name
from orca_master.tasks.model import TASKS, Task, TaskState, Wanted

_encoder = msgspec.json.Encoder()

STATUSES = ("running", "updating", "degraded", "pending", "failed", "stopped")


def all_statuses(view: View, tenant: str, project: str | None) -> list[ServiceOut]:
    """Every service the caller may see, in order of project and name."""
    if project is None:
        services = view.find(SERVICES, "tenant", tenant)
    else:
        services = view.find(SERVICES, "project", f"{tenant}/{project}")
    down = down_nodes(view)
    return [status(view, service, down) for service in services]


class Statuses:
    """`all_statuses` as JSON, made once until something changes in the tables that have a part in it."""

    def __init__(self) -> None:
        self._of: State | None = None
        self._made: dict[tuple[str, str | None], msgspec.Raw] = {}

    def at(self, state: State, tenant: str, project: str | None) -> msgspec.Raw:
        if state is not self._of:
            if self._of is None or not state.has_same(
                self._of, SERVICES, DEPLOYMENTS, TASKS, NODES
            ):
                self._made = {}
            self._of = state
        key = tenant, project
        if key not in self._made:
            self._made[key] = msgspec.Raw(_encoder.encode(all_statuses(state, tenant, project)))
        return self._made[key]


def status(view: View, service: Service, down: Collection[str]) -> ServiceOut:
    tasks = known_tasks(view, service, down)
    shown = [task for task in tasks if not _is_history(task, tasks)]
    going = open_deployment(view, service)
    return ServiceOut(
        name=service.name,
        project=service.project,
        status=word(service, tasks, going),
        replicas=service.replicas,
        running_replicas=len(_ready_slots(service, tasks)),
        image=service.spec.image or None,
        domain=next(iter(service.policy.routing.domains), None),
        domains=list(service.policy.routing.domains),
        desired_replicas=service.wanted_replicas,
        runtime=service.spec.runtime,
        command=list(service.spec.command) or None,
        revision=service.revision,
        stable_revision=service.stable or None,
        reason=reason(service, tasks, going, waiting_for(view, service) if service.waits else ()),
        rollout=None if going is None else rollout_out(service, going),
        depends_on={each.name: each.condition for each in service.policy.depends_on},
        tasks=[_task(view, task) for task in sorted(shown, key=lambda t: (t.slot, t.created_at))],
    )


def known_tasks(view: View, service: Service, down: Collection[str]) -> list[Task]:
    """The service's tasks as far as they are known: nothing on a node that is `down` is healthy."""
    return [
        _lost(view, task) if task.node in down else task
        for task in view.find(TASKS, "owner", service.owner)
    ]


def _lost(view: View, task: Task) -> Task:
    node = view.get(NODES, task.node)
    reason = f"its node {node.name if node else task.node} is down"
    return replace(task, observed=replace(task.observed, healthy=False, reason=reason))


def rollout_out(service: Service, going: Deployment) -> RolloutOut:
    is_canary = going.holding and going.strategy is Strategy.CANARY
    return RolloutOut(
        deployment=going.number,
        kind=going.kind,
        strategy=going.strategy,
        state=going.state,
        revision=going.revision,
        stable_revision=going.base or None,
        replicas=service.wanted_replicas,
        ready=going.settled,
        weight=weight(going, service.policy.rollout) if is_canary else None,
        reason=going.reason or None,
    )


def _ready_slots(service: Service, tasks: Sequence[Task]) -> dict[int, int]:
    """The revision of each replica that is ready; of two, the wanted one."""
    ready = [task for task in tasks if task.is_ready and task.wanted is Wanted.RUN]
    ready.sort(key=lambda task: task.revision == service.revision)
    return {task.slot: task.revision for task in ready if task.slot <= service.wanted_replicas}


def word(service: Service, tasks: list[Task], going: Deployment | None = None) -> str:
    """One of `STATUSES`.

    `running`: all replicas of the wanted revision are ready. `updating`: all are ready, a rollout is
    under way. `degraded`: only some are ready, or the wanted revision fails while an older one serves.
    `pending`: none is ready yet. `failed`: none is ready and something has failed.
    """
    wanted = service.wanted_replicas
    if wanted == 0:
        return "stopped"
    ready = _ready_slots(service, tasks)
    failing = bool(_failures(tasks))
    if len(ready) >= wanted:
        is_change = going is not None and going.base > 0
        if not is_change and all(revision == service.revision for revision in ready.values()):
            return "running"
        return "degraded" if failing else "updating"
    if ready:
        return "degraded"
    return "failed" if failing else "pending"


def reason(
    service: Service,
    tasks: list[Task],
    going: Deployment | None = None,
    waits: Sequence[str] = (),
) -> str | None:
    """Why it is not running in full, in words; None when it is. `waits`: for what it depends on."""
    if word(service, tasks, going) in ("running", "stopped"):
        return None
    if waits:
        return "; ".join(waits)
    for task in sorted(tasks, key=lambda task: task.slot):
        if task.wanted is Wanted.RUN and task.pending_reason:
            return f"replica {task.slot}: {task.pending_reason}"
    if going is not None and going.reason:
        return going.reason
    failures = _failures(tasks)
    if failures:
        return failures[0]
    unwell = (t for t in tasks if t.wanted is Wanted.RUN and not t.is_ready and t.observed.reason)
    return next((f"replica {task.slot}: {task.observed.reason}" for task in unwell), None)


def _failures(tasks: list[Task]) -> list[str]:
    found = []
    for task in sorted(tasks, key=lambda task: (task.slot, -task.created_at)):
        if task.wanted is Wanted.RUN and task.observed.state.is_over:
            found.append(f"replica {task.slot}: {describe_end(task)}")
        elif task.wanted is Wanted.RUN and task.last_failure and not task.is_ready:
            found.append(f"replica {task.slot}: {task.last_failure}")
    return found


def _is_history(task: Task, tasks: list[Task]) -> bool:
    """An ended task whose successor exists: kept for its logs, not shown as a replica."""
    return task.observed.state.is_over and any(
        other.slot == task.slot and other.created_at > task.created_at for other in tasks
    )


def _task(view: View, task: Task) -> TaskOut:
    observed = task.observed
    node = view.get(NODES, task.node) if task.node else None
    address = node.facts.address if node else ""
    has_exited = observed.state is TaskState.EXITED
    return TaskOut(
        id=task.id,
        replica=task.slot,
        revision=task.revision,
        state="stopping" if _is_leaving(task) else observed.state.name.lower(),
        healthy=observed.healthy and not _is_leaving(task),
        node=node.name if node else None,
        reason=_why(task) or None,
        exit_code=observed.exit_code if has_exited else None,
        signal=signal_name(observed.exit_code) if has_exited else None,
        oom_killed=observed.oom_killed,
        attempt=task.attempt,
        next_try_at=task.not_before or None if not task.node else None,
        probes=observed.probes or None,
        last_lines=list(observed.last_lines),
        started_at=observed.started_at or None,
        address=f"{address}:{observed.host_port}" if address and observed.host_port else None,
        container=observed.container or None,
        image_digest=observed.image_digest or None,
        image_id=observed.image_id or None,
    )


def _why(task: Task) -> str:
    if task.observed.state.is_over:
        return describe_end(replace(task, observed=replace(task.observed, last_lines=())))
    return task.pending_reason or task.observed.reason or task.last_failure


def _is_leaving(task: Task) -> bool:
    return task.wanted is Wanted.STOP and not task.observed.state.is_over
