"""What became of a deploy, as far as it is known. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from orca_master.cluster.operations import down_nodes
from orca_master.services.model import SERVICES, Service
from orca_master.state.transaction import View
from orca_master.tasks.model import TASKS, Task, TaskState, Wanted


@dataclass(frozen=True, slots=True)
class Outcome:
    """`error` is empty when the revision runs with all its replicas: the tasks `ready`."""

    error: str = ""
    ready: frozenset[str] = frozenset()


def outcome(view: View, service: Service) -> Outcome | None:
    """None while it is open. `service` is the row as the deploy left it."""
    now = view.get(SERVICES, service.tenant, service.project, service.name)
    if now is None or now.purge:
        return Outcome("it was removed while the deploy was in progress")
    if now.revision != service.revision:
        return Outcome(f"superseded by revision {now.revision}")
    if now.stopped:
        return Outcome("it was stopped while the deploy was in progress")
    tasks = _current(view, now)
    ready = _ready(view, tasks)
    if len(ready) >= now.wanted_replicas and not _others_live(view, now):
        return Outcome(ready=ready)
    for task in sorted(tasks, key=lambda task: task.slot):
        if task.observed.state.is_over:
            return Outcome(f"{_replica(now, task)}{describe_end(task)}")
        if task.pending_reason and not task.not_before:
            return Outcome(f"{_replica(now, task)}{task.pending_reason}")
    return None


def progress(view: View, service: Service) -> str:
    """How far an open deploy has come, in words."""
    tasks = _current(view, service)
    parts = [f"{len(_ready(view, tasks))} of {service.wanted_replicas} replicas ready"]
    parts += [
        f"replica {task.slot} {_DOING[task.observed.state]}"
        for task in sorted(tasks, key=lambda task: task.slot)
        if not task.is_ready and task.observed.state in _DOING
    ]
    return "; ".join(parts[:4])


def describe_end(task: Task) -> str:
    """Why a task that is over is over, in words."""
    observed = task.observed
    if observed.reason:
        return observed.reason
    if observed.oom_killed:
        return "was killed: it used more memory than its limit"
    return f"exited with code {observed.exit_code}"


_DOING = {
    TaskState.PENDING: "waits for a node",
    TaskState.ASSIGNED: "waits for its worker",
    TaskState.PREPARING: "is getting its image",
    TaskState.STARTING: "has not passed its health check yet",
    TaskState.RUNNING: "is unhealthy",
}


def _current(view: View, service: Service) -> Sequence[Task]:
    return [
        task
        for task in view.find(TASKS, "owner", service.owner)
        if task.revision == service.revision
        and task.wanted is Wanted.RUN
        and task.slot <= service.wanted_replicas
    ]


def _ready(view: View, tasks: Sequence[Task]) -> frozenset[str]:
    down = down_nodes(view)
    return frozenset(task.id for task in tasks if task.is_ready and task.node not in down)


def _others_live(view: View, service: Service) -> bool:
    """Whether replicas of an older revision, or surplus ones, have not even been told to stop."""
    return any(
        task.wanted is Wanted.RUN
        and not task.observed.state.is_over
        and (task.revision != service.revision or task.slot > service.wanted_replicas)
        for task in view.find(TASKS, "owner", service.owner)
    )


def _replica(service: Service, task: Task) -> str:
    return f"replica {task.slot}: " if service.wanted_replicas > 1 else ""
