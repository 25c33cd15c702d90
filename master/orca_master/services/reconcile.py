"""What a service needs next. Pure: the service, its tasks and the time in; a plan out.

Each replica has a slot (1, 2, …). For each slot the plan keeps the best task of the wanted
revision, asks for one where there is none, and stops the others only once the kept one is ready:
a replacement always comes first, except where two cannot stand side by side (`stop_first`).
A task on a node that is down counts as lost, but it is stopped only when its replacement is ready:
if the node comes back before, `replacing` says which of the two stays.
On a node that is drained it is the same, but for the coming back: what runs there goes on until its
replacement is ready, elsewhere. So a drain never takes a service below what it has, and no more than
`max_moving` replicas of it are on their way at a time. Only once a drain is overdue is what still runs
there stopped, whatever comes after it.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from orca_master.services.model import Reconnect
from orca_master.services.replacing import is_awaited, may_be_replaced, who_goes_on
from orca_master.tasks.model import Task, Wanted

BACKOFF_FIRST_SECONDS = 1.0
BACKOFF_MOST_SECONDS = 300.0
BACKOFF_RESET_SECONDS = 300.0
"""A task that ran this long before it ended starts the count anew."""


@dataclass(frozen=True, slots=True)
class Target:
    """The wanted side. `max_moving`: how many replicas may leave drained nodes at a time."""

    revision: int
    replicas: int
    stop_first: bool
    max_moving: int = 1
    reconnect: Reconnect = Reconnect.BEST


@dataclass(frozen=True, slots=True)
class Create:
    """Ask for a task in this slot, not to be placed before `not_before` (Unix seconds)."""

    slot: int
    attempt: int = 0
    not_before: float = 0.0
    last_failure: str = ""
    generation: int = 1


@dataclass(slots=True)
class Plan:
    create: list[Create] = field(default_factory=list)
    stop: list[Task] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Nodes:
    down: Collection[str]
    drained: Collection[str]
    overdue: Collection[str]


@dataclass(slots=True)
class _Moves:
    """Replicas that leave drained nodes: those whose replacement is not ready yet, and the others."""

    under_way: int = 0
    waiting: list[Create] = field(default_factory=list)


def reconcile(
    target: Target,
    tasks: Sequence[Task],
    down: Collection[str],
    now: float,
    *,
    drained: Collection[str] = (),
    overdue: Collection[str] = (),
) -> Plan:
    """`tasks` are all of the service's; `down`, `drained`, `overdue`: ids of nodes that are so."""
    plan = Plan()
    nodes, moves = _Nodes(down, drained, overdue), _Moves()
    for slot in range(1, target.replicas + 1):
        in_slot = [task for task in tasks if task.slot == slot]
        _reconcile_slot(plan, slot, target, in_slot, nodes, moves, now)
    plan.create.extend(moves.waiting[: max(0, target.max_moving - moves.under_way)])
    surplus = (t for t in tasks if t.slot > target.replicas and t.wanted is Wanted.RUN)
    plan.stop.extend(surplus)
    return plan


def _reconcile_slot(
    plan: Plan,
    slot: int,
    target: Target,
    tasks: Sequence[Task],
    nodes: _Nodes,
    moves: _Moves,
    now: float,
) -> None:
    wanted = [task for task in tasks if task.wanted is Wanted.RUN]
    current = [task for task in wanted if task.revision == target.revision]
    ended = [task for task in current if task.observed.state.is_over]
    alive = [t for t in current if not t.observed.state.is_over and t.node not in nodes.down]
    usable = [task for task in alive if task.node not in nodes.overdue]
    staying = [task for task in usable if task.node not in nodes.drained]
    leaving = [task for task in usable if task.node in nodes.drained]
    if staying:
        keep = who_goes_on(target.reconnect, staying)
        others = [t for t in wanted if t is not keep]
        if keep.is_ready:
            plan.stop.extend(
                t for t in others if not is_awaited(target.reconnect, t, keep, nodes.down)
            )
            return
        until_then = max(
            (t for t in staying if t is not keep and t.is_ready),
            key=lambda t: t.order,
            default=keep,
        )
        plan.stop.extend(t for t in staying if t not in (keep, until_then))
    if leaving:
        last_leaving = _best(leaving)
        plan.stop.extend(task for task in leaving if task is not last_leaving)
    plan.stop.extend(task for task in wanted if task.node in nodes.overdue)
    if leaving and staying:
        moves.under_way += 1
    elif leaving:
        moves.waiting.append(next_try(slot, tasks, ended, now))
    elif not usable:
        older = [t for t in tasks if t not in current and not t.observed.state.is_over]
        if target.stop_first and older:
            plan.stop.extend(task for task in older if task.wanted is Wanted.RUN)
        elif may_be_replaced(current, nodes.down):
            plan.create.append(next_try(slot, tasks, ended, now))
    newest = max(ended, key=lambda t: t.order, default=None)
    stale = [t for t in wanted if t.observed.state.is_over and t is not newest]
    plan.stop.extend(stale)


def _best(tasks: Sequence[Task]) -> Task:
    return max(tasks, key=lambda t: (t.is_ready, t.observed.state, -t.created_at, t.id))


def next_try(slot: int, tasks: Sequence[Task], ended: Sequence[Task], now: float) -> Create:
    """`tasks`: all of the slot; `ended`: those of them that this is another try of."""
    generation = 1 + max((task.generation for task in tasks), default=0)
    if not ended:
        return Create(slot, generation=generation)
    last = max(ended, key=lambda task: task.order)
    ran_seconds = last.observed.ended_at - last.observed.started_at
    lasted = last.observed.started_at > 0 and ran_seconds >= BACKOFF_RESET_SECONDS
    attempt = 1 if lasted else last.attempt + 1
    not_before = now + backoff_seconds(attempt)
    return Create(slot, attempt, not_before, last.observed.reason, generation)


def backoff_seconds(attempt: int) -> float:
    """How long to wait before the given retry (1, 2, …): 1, 2, 4 … 300 seconds."""
    return min(BACKOFF_MOST_SECONDS, BACKOFF_FIRST_SECONDS * 2.0 ** min(attempt - 1, 30))
