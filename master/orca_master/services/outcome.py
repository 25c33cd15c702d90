"""What became of a deploy, as far as it is known. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from orca_master.cluster.operations import down_nodes
from orca_master.services import strategy
from orca_master.services.dependencies import waiting_for
from orca_master.services.model import SERVICES, Service
from orca_master.services.rollouts.model import (
    DEPLOYMENTS,
    Deployment,
    DeploymentState,
    number_key,
)
from orca_master.state.transaction import View
from orca_master.tasks.endings import describe_end
from orca_master.tasks.model import TASKS, Task, TaskState, Wanted


class Ending(StrEnum):
    """`running`: all replicas run the revision. `paused`: the rollout waits for somebody."""

    RUNNING = "running"
    PAUSED = "paused"
    REVERTED = "reverted"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """`reason` is empty if it runs. `look_at`: what is still open is to be looked at then (Unix seconds),
    if nothing changes before; infinite: only when something changes."""

    ending: Ending | None
    reason: str = ""
    look_at: float = math.inf


_OPEN = Outcome(None)


def outcome(view: View, service: Service, now: float) -> Outcome:
    """`service` is the row as the deploy left it."""
    row = view.get(SERVICES, *service.key)
    if row is None or row.purge:
        return _failed("it was removed while the deploy was in progress")
    mine = _deployment(view, service, service.deployment)
    goal = service.revision if mine is None else mine.goal
    if goal != row.revision and (mine is None or row.deployment != service.deployment):
        is_known = mine is not None and mine.state is not DeploymentState.SUCCEEDED
        reason = mine.reason if mine is not None and is_known else ""
        return _failed(reason or f"superseded by revision {row.revision}")
    if row.stopped:
        return _failed("it was stopped while the deploy was in progress")
    if mine is not None and mine.goal != service.revision:
        if not mine.state.is_over:
            return _OPEN
        return Outcome(Ending.REVERTED, f"{mine.reason}; revision {mine.goal} is what runs")
    if mine is not None and mine.state is DeploymentState.CANCELLED:
        return _failed(f"cancelled: {mine.reason}")
    if mine is not None and not mine.state.is_over and mine.goal == mine.revision and mine.base:
        is_paused = mine.state is DeploymentState.PAUSED
        return Outcome(Ending.PAUSED, mine.reason) if is_paused else _OPEN
    return _of_replicas(view, row, mine, now)


def _failed(reason: str) -> Outcome:
    return Outcome(Ending.FAILED, reason)


def _deployment(view: View, service: Service, number: int) -> Deployment | None:
    return view.get(DEPLOYMENTS, *service.key, number_key(number))


def _of_replicas(view: View, service: Service, mine: Deployment | None, now: float) -> Outcome:
    """By the replicas themselves, once no rollout says more. Without a health check one runs once it has
    not ended for a moment: a program that fails at once is no success."""
    tasks = _current(view, service)
    ready = _ready(view, tasks)
    is_over = mine is None or mine.state.is_over
    has_all = is_over and len(ready) >= service.wanted_replicas
    if has_all and (mine is not None or not _others_live(view, service)):
        settle = 0.0 if service.spec.has_check else strategy.SETTLE_SECONDS
        settled_at = max((task.ready_at for task in ready), default=0.0) + settle
        return Outcome(Ending.RUNNING) if settled_at <= now else Outcome(None, look_at=settled_at)
    for task in sorted(tasks, key=lambda task: task.slot):
        if task.observed.state.is_over:
            return _failed(f"{_replica(service, task)}{describe_end(task)}")
        if task.pending_reason and not task.not_before:
            return _failed(f"{_replica(service, task)}{task.pending_reason}")
    return _OPEN


def progress(view: View, service: Service) -> str:
    """How far an open deploy has come, in words."""
    going = _deployment(view, service, service.deployment)
    if going is not None and going.state is DeploymentState.REVERTING:
        return f"{going.reason}; going back to revision {going.base}"
    row = view.get(SERVICES, *service.key)
    if row is not None and row.waits and (waits := waiting_for(view, row)):
        return "; ".join(waits[:4])
    tasks = _current(view, service)
    parts = [f"{len(_ready(view, tasks))} of {service.wanted_replicas} replicas ready"]
    parts += [
        f"replica {task.slot} waits for a node: {task.pending_reason}"
        for task in tasks
        if task.pending_reason
    ]
    parts += [
        f"replica {task.slot} {_DOING[task.observed.state]}" + _because(task)
        for task in sorted(tasks, key=lambda task: task.slot)
        if not task.is_ready and task.observed.state in _DOING and not task.pending_reason
    ]
    return "; ".join(parts[:4])


def _because(task: Task) -> str:
    return f": {task.observed.reason}" if task.observed.reason else ""


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


def _ready(view: View, tasks: Sequence[Task]) -> list[Task]:
    down = down_nodes(view)
    return [task for task in tasks if task.is_ready and task.node not in down]


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
