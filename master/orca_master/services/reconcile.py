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
While a rollout is under way each slot has its lane: its revision, and one that may run beside it.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from orca_master.services.model import Reconnect
from orca_master.services.replacing import is_awaited, may_be_replaced, who_goes_on
from orca_master.tasks.endings import describe_end
from orca_master.tasks.model import Task, Wanted

BACKOFF_FIRST_SECONDS = 1.0
BACKOFF_MOST_SECONDS = 300.0
BACKOFF_RESET_SECONDS = 300.0
"""A task that ran this long before it ended starts the count anew."""


@dataclass(frozen=True, slots=True)
class Lane:
    """What one slot is to run: a revision, and `beside` it another (0: none), each with its own task.

    `drops`: of all others at most one goes on until then, one that is ready or of revision `spares`.
    """

    revision: int
    beside: int = 0
    drops: bool = False
    spares: int = 0


@dataclass(frozen=True, slots=True)
class Target:
    """The wanted side. `max_moving`: how many replicas may leave drained nodes at a time. `lanes`: by slot,
    where a rollout says more than `revision`. `settle`: for so many seconds a replica must be ready before
    one of another revision stops for it; `proven` (ids of tasks): those need not. `clear_first`: nothing of
    a revision starts while another runs."""

    revision: int
    replicas: int
    stop_first: bool
    max_moving: int = 1
    reconnect: Reconnect = Reconnect.BEST
    lanes: Mapping[int, Lane] = field(default_factory=dict)
    settle: float = 0.0
    proven: Collection[str] = frozenset()
    clear_first: bool = False

    def lane(self, slot: int) -> Lane:
        return self.lanes.get(slot) or Lane(self.revision)


@dataclass(frozen=True, slots=True)
class Create:
    """Ask for a task of this revision in this slot, not to be placed before `not_before` (Unix seconds)."""

    slot: int
    revision: int
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
    look = _Look(target, tasks, _Nodes(down, drained, overdue), now)
    slots: dict[int, list[Task]] = defaultdict(list)
    for task in tasks:
        slots[task.slot].append(task)
    for slot in range(1, target.replicas + 1):
        lane, in_slot = target.lane(slot), slots[slot]
        if lane.beside:
            of_it = [task for task in in_slot if task.revision == lane.beside]
            _reconcile_slot(plan, _Slot(slot, Lane(lane.beside), of_it, in_slot), look)
            of_it = [task for task in in_slot if task.revision != lane.beside]
            _reconcile_slot(plan, _Slot(slot, lane, of_it, in_slot), look)
        else:
            _reconcile_slot(plan, _Slot(slot, lane, in_slot, in_slot), look)
    moves = look.moves
    plan.create.extend(moves.waiting[: max(0, target.max_moving - moves.under_way)])
    surplus = (t for t in tasks if t.slot > target.replicas and t.wanted is Wanted.RUN)
    plan.stop.extend(surplus)
    plan.stop = list({task.id: task for task in plan.stop}.values())
    return plan


@dataclass(slots=True)
class _Look:
    target: Target
    tasks: Sequence[Task]
    nodes: _Nodes
    now: float
    moves: _Moves = field(default_factory=_Moves)


@dataclass(frozen=True, slots=True)
class _Slot:
    """`tasks`: those that the lane speaks of; `everyone`: all of the slot."""

    number: int
    lane: Lane
    tasks: Sequence[Task]
    everyone: Sequence[Task]


def _reconcile_slot(plan: Plan, slot: _Slot, look: _Look) -> None:
    target, nodes, moves, revision = look.target, look.nodes, look.moves, slot.lane.revision
    wanted = [task for task in slot.tasks if task.wanted is Wanted.RUN]
    current = [task for task in wanted if task.revision == revision]
    ended = [task for task in current if task.observed.state.is_over]
    alive = [t for t in current if not t.observed.state.is_over and t.node not in nodes.down]
    usable = [task for task in alive if task.node not in nodes.overdue]
    staying = [task for task in usable if task.node not in nodes.drained]
    leaving = [task for task in usable if task.node in nodes.drained]
    if staying:
        keep = who_goes_on(target.reconnect, staying)
        others = [t for t in wanted if t is not keep]
        if keep.is_ready and _may_stop_for(keep, others, look):
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
    if slot.lane.drops:
        plan.stop.extend(_dropped(slot.lane, wanted, nodes))
    if leaving and staying:
        moves.under_way += 1
    elif leaving:
        moves.waiting.append(next_try(slot.number, revision, slot.everyone, ended, look.now))
    elif not usable:
        older = _older(slot, look)
        if target.stop_first and older:
            plan.stop.extend(task for task in older if task.wanted is Wanted.RUN)
        elif may_be_replaced(current, nodes.down):
            plan.create.append(next_try(slot.number, revision, slot.everyone, ended, look.now))
    newest = max(ended, key=lambda t: t.order, default=None)
    stale = [t for t in wanted if t.observed.state.is_over and t is not newest]
    plan.stop.extend(stale)


def _dropped(lane: Lane, wanted: Sequence[Task], nodes: _Nodes) -> list[Task]:
    """Of other revisions, all but the one that had better go on until the wanted one is ready."""

    def is_ready(task: Task) -> bool:
        return task.is_ready and task.node not in nodes.down

    others = [t for t in wanted if t.revision != lane.revision]
    good = [t for t in others if not t.observed.state.is_over]
    good = [t for t in good if is_ready(t) or t.revision == lane.spares]
    best = max(good, key=lambda t: (is_ready(t), t.revision == lane.spares, t.order), default=None)
    return [task for task in others if task is not best]


def _may_stop_for(keep: Task, others: Sequence[Task], look: _Look) -> bool:
    """Whether a replica that is ready has been so for long enough."""
    is_change = any(task.revision != keep.revision for task in others)
    has_proven = keep.id in look.target.proven or look.now - keep.ready_at >= look.target.settle
    return has_proven or not is_change


def _older(slot: _Slot, look: _Look) -> list[Task]:
    """What may still run of the slot but is not wanted of it; with `clear_first`, of other revisions
    anywhere."""
    here = [t for t in slot.tasks if t.revision != slot.lane.revision or t.wanted is not Wanted.RUN]
    if look.target.clear_first:
        here += [t for t in look.tasks if t.revision != slot.lane.revision]
    return [task for task in here if not task.observed.state.is_over]


def _best(tasks: Sequence[Task]) -> Task:
    return max(tasks, key=lambda t: (t.is_ready, t.observed.state, -t.created_at, t.id))


def next_try(
    slot: int, revision: int, tasks: Sequence[Task], ended: Sequence[Task], now: float
) -> Create:
    """`tasks`: all of the slot; `ended`: those of them that this is another try of."""
    generation = 1 + max((task.generation for task in tasks), default=0)
    if not ended:
        return Create(slot, revision, generation=generation)
    last = max(ended, key=lambda task: task.order)
    ran_seconds = last.observed.ended_at - last.observed.started_at
    lasted = last.observed.started_at > 0 and ran_seconds >= BACKOFF_RESET_SECONDS
    attempt = 1 if lasted else last.attempt + 1
    not_before = now + backoff_seconds(attempt)
    return Create(slot, revision, attempt, not_before, describe_end(last), generation)


def backoff_seconds(attempt: int) -> float:
    """How long to wait before the given retry (1, 2, …): 1, 2, 4 … 300 seconds."""
    return min(BACKOFF_MOST_SECONDS, BACKOFF_FIRST_SECONDS * 2.0 ** min(attempt - 1, 30))
