"""What a fenced service needs next: none of its replicas ever runs twice at once. Pure.

In each slot the one that may run has to end before the next is asked for: a new revision, another node
and a next try all stop first. A task may run from when it is given to a node until its worker says that it
has ended, whatever is wanted of it; on a node that was lost, until the node's lease is certainly over
(`lapsed`). What is left there is then stopped for good, should the node return.
"""

from collections.abc import Collection, Sequence

from orca_master.services.reconcile import Plan, Target, next_try
from orca_master.tasks.model import Task, Wanted


def may_run(task: Task, lapsed: Collection[str] = ()) -> bool:
    """Whether anything of it can be running now; `lapsed`: ids of nodes where nothing fenced does."""
    return bool(task.node) and not task.observed.state.is_over and task.node not in lapsed


def reconcile_fenced(
    target: Target,
    tasks: Sequence[Task],
    lapsed: Collection[str],
    now: float,
    *,
    drained: Collection[str] = (),
    overdue: Collection[str] = (),
) -> Plan:
    """As `reconcile`, for a service whose replicas are fenced."""
    plan = Plan()
    slots = {slot: [t for t in tasks if t.slot == slot] for slot in range(1, target.replicas + 1)}
    keeps = {
        slot: _keep(target.lane(slot).revision, found, lapsed, overdue)
        for slot, found in slots.items()
    }
    moving = sum(keep is None or not keep.is_ready for keep in keeps.values())
    for slot, found in slots.items():
        keep = keeps[slot]
        is_leaving = keep is not None and keep.node in drained and not keep.constraints.node
        if keep is not None and is_leaving and (not keep.is_ready or moving < target.max_moving):
            moving += keep.is_ready
            keep = None
        _bring_to(plan, target.lane(slot).revision, slot, found, keep, lapsed, now)
    plan.stop.extend(t for t in tasks if t.slot > target.replicas and t.wanted is Wanted.RUN)
    return plan


def _keep(
    revision: int, tasks: Sequence[Task], lapsed: Collection[str], overdue: Collection[str]
) -> Task | None:
    """The one that goes on: it may run, or waits for a node, or only its node that was lost may run it."""
    good = [
        task
        for task in tasks
        if task.wanted is Wanted.RUN
        and task.revision == revision
        and not task.observed.state.is_over
        and task.node not in overdue
        and (task.node not in lapsed or task.constraints.node)
    ]
    return max(good, key=lambda t: (bool(t.node), t.order), default=None)


def _bring_to(
    plan: Plan,
    revision: int,
    slot: int,
    tasks: Sequence[Task],
    keep: Task | None,
    lapsed: Collection[str],
    now: float,
) -> None:
    ended = [
        task
        for task in tasks
        if task.wanted is Wanted.RUN and task.revision == revision and task.observed.state.is_over
    ]
    last = None if keep is not None and keep.is_ready else max(ended, key=_order, default=None)
    plan.stop.extend(t for t in tasks if t.wanted is Wanted.RUN and t not in (keep, last))
    if keep is None and not any(may_run(task, lapsed) for task in tasks):
        plan.create.append(next_try(slot, revision, tasks, ended, now))


def _order(task: Task) -> tuple[int, float, str]:
    return task.order
