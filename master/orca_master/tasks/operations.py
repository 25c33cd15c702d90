"""The verbs of tasks: ask for one, place it, observe it, stop it, forget it."""

import hashlib
from collections.abc import Collection, Iterable, Sequence

import msgspec
from msgspec.structs import replace

from orca_master.cluster.model import NODES, NodeState
from orca_master.state.transaction import Transaction, View
from orca_master.tasks import gone
from orca_master.tasks.constraints import Constraints
from orca_master.tasks.model import (
    HOMES,
    SPECS,
    TASKS,
    Home,
    Observed,
    StoredSpec,
    Task,
    TaskSpec,
    TaskState,
    Wanted,
)
from orca_master.tasks.placement import Demand, Placement, Room, place

FAILURE_COUNTS_SECONDS = 300.0
"""So long a replica that ended by itself speaks against its node."""


def keep_spec(tx: Transaction, spec: TaskSpec) -> str:
    """Store the spec under its hash; it goes when its last task goes."""
    raw = msgspec.msgpack.encode(spec, order="deterministic")
    hash = hashlib.sha256(raw).hexdigest()[:32]
    tx.put(SPECS, StoredSpec(hash=hash, spec=spec))
    return hash


def spec_of(view: View, task: Task) -> TaskSpec:
    stored = view.get(SPECS, task.spec)
    if stored is None:  # a row is never without its spec: both are written and deleted together
        raise KeyError(task.spec)
    return stored.spec


def create(
    tx: Transaction,
    *,
    id: str,
    owner: str,
    project: str,
    name: str,
    revision: int,
    slot: int,
    spec: TaskSpec,
    constraints: Constraints,
    now: float,
    attempt: int = 0,
    not_before: float = 0.0,
    last_failure: str = "",
    generation: int = 0,
    fencing_token: int = 0,
) -> Task:
    """Ask for a task. It is pending until `plan_placements` finds a node for it."""
    task = Task(
        id=id,
        owner=owner,
        project=project,
        name=name,
        revision=revision,
        slot=slot,
        spec=keep_spec(tx, spec),
        constraints=constraints,
        created_at=now,
        attempt=attempt,
        not_before=not_before,
        last_failure=last_failure,
        generation=generation,
        fencing_token=fencing_token,
    )
    tx.put(TASKS, task)
    return task


def stop(tx: Transaction, task: Task) -> None:
    """Have it stopped and removed. One that never reached a node is forgotten at once."""
    if not task.node:
        forget(tx, task)
    elif task.wanted is not Wanted.STOP:
        tx.put(TASKS, replace(task, wanted=Wanted.STOP))


def forget(tx: Transaction, task: Task) -> None:
    tx.delete(TASKS, task.owner, task.id)
    if not tx.find(TASKS, "spec", task.spec):
        tx.delete(SPECS, task.spec)


def by_id(view: View, task_id: str) -> Task | None:
    found = view.find(TASKS, "id", task_id)
    return found[0] if found else None


def rooms(view: View, *, now: float, doubtful: Collection[str] = ()) -> list[Room]:
    """Every node with what its tasks take of it and what failed there lately, in name order.

    `doubtful`: ids of nodes that are not heard of just now.
    """
    by_node = {node.id: Room(node, is_doubtful=node.id in doubtful) for node in view.scan(NODES)}
    for room in by_node.values():
        for task in view.find(TASKS, "node", room.node.id):
            if not task.observed.state.is_over:
                room.take(task.owner, spec_of(view, task), task.constraints, task.revision)
            elif now - _ended_at(task) < FAILURE_COUNTS_SECONDS:
                room.failures[task.owner] += 1
    return sorted(by_node.values(), key=lambda room: room.node.name)


def _ended_at(task: Task) -> float:
    """About when, by the masters' clock: nodes' clocks are good for durations only."""
    return task.created_at + max(0.0, task.observed.ended_at - task.observed.started_at)


def plan_placements(view: View, *, now: float, doubtful: Collection[str] = ()) -> list[Placement]:
    """A node for every pending task that is due, or why there is none; what is said already is left out.

    To be taken by `take_placements`: looking at all nodes is too much work for a transaction.
    """
    tasks = [task for task in view.find(TASKS, "unplaced", "yes") if task.not_before <= now]
    if not tasks:
        return []
    tasks.sort(key=lambda task: (task.created_at, task.owner, task.slot, task.id))
    demands = [
        Demand(t.id, t.owner, spec_of(view, t), t.constraints, t.revision, home_of(view, t))
        for t in tasks
    ]
    placements = place(demands, rooms(view, now=now, doubtful=doubtful))
    return [
        placement
        for task, placement in zip(tasks, placements, strict=True)
        if placement.node or placement.reason != task.pending_reason
    ]


def take_placements(tx: Transaction, placements: Iterable[Placement]) -> None:
    """As planned, except for what has changed since: that is planned again.

    Only whoever places takes room, so a node that is still ready has it.
    """
    for placement in placements:
        task = by_id(tx, placement.task)
        if task is None or task.node or task.wanted is not Wanted.RUN:
            continue
        if not placement.node:
            tx.put(TASKS, replace(task, pending_reason=placement.reason))
            continue
        node = tx.get(NODES, placement.node)
        if node is not None and node.state is NodeState.READY and node.schedulable:
            observed = replace(task.observed, state=TaskState.ASSIGNED)
            placed = replace(task, node=node.id, pending_reason="", observed=observed)
            tx.put(TASKS, placed)
            if spec_of(tx, task).container.volumes:
                tx.put(HOMES, Home(task.owner, task.slot, node.id))


def home_of(view: View, task: Task) -> str:
    """The id of the node that has the volumes of the task's slot, or empty."""
    home = view.get(HOMES, task.owner, str(task.slot))
    return home.node if home is not None and spec_of(view, task).container.volumes else ""


def forget_homes(tx: Transaction, homes: Iterable[Home]) -> None:
    for home in list(homes):
        tx.delete(HOMES, home.owner, str(home.slot))


def observe(
    tx: Transaction, node_id: str, reports: Sequence[tuple[str, Observed]], now: float
) -> None:
    """Take in what a worker says of its tasks.

    A report about a task of another node, or one that would take a task back to an earlier state,
    is ignored.
    """
    for task_id, observed in reports:
        task = by_id(tx, task_id)
        if task is not None and task.node == node_id:
            _observe_one(tx, task, observed, now)


def observe_all(tx: Transaction, node_id: str, present: Collection[str], now: float) -> None:
    """Nothing but these tasks exists on the node: what should be there and is not has vanished, and
    what was to be stopped is gone."""
    for task in tx.find(TASKS, "node", node_id):
        if task.id in present:
            continue
        if task.wanted is Wanted.STOP or task.observed.state >= TaskState.STARTING:
            _vanished(tx, task, now)


def _observe_one(tx: Transaction, task: Task, observed: Observed, now: float) -> None:
    if observed.state is TaskState.GONE:
        _vanished(tx, task, now)
    elif observed.state >= task.observed.state:
        if not observed.image_digest:  # a worker that has just started knows less of it
            observed = replace(observed, image_digest=task.observed.image_digest)
        seen = replace(task, observed=observed)
        tx.put(TASKS, replace(seen, ready_at=(task.ready_at or now) if seen.is_ready else 0.0))


def _vanished(tx: Transaction, task: Task, now: float) -> None:
    if task.wanted is Wanted.STOP:
        gone.keep(tx, task, now)
        forget(tx, task)
    elif not task.observed.state.is_over:
        ended = replace(
            task.observed,
            state=TaskState.EXITED,
            healthy=False,
            reason="it disappeared from the node",
        )
        tx.put(TASKS, replace(task, observed=ended, ready_at=0.0))
