"""The last tasks that are gone, so that one can ask for what they printed: their nodes keep it for a day."""

from collections.abc import Sequence

import msgspec

from orca_master.state.table import Table, View
from orca_master.state.transaction import Transaction
from orca_master.tasks.model import Task

KEPT_OF_SLOT = 3
KEPT_SECONDS = 24 * 3600.0
"""As long as workers keep the output."""


class GoneTask(msgspec.Struct, frozen=True):
    """`at`: when nothing of it was left, Unix seconds."""

    task: Task
    at: float


GONE_TASKS = Table(
    "gone_tasks",
    GoneTask,
    key=lambda g: (g.task.owner, g.task.id),
    indexes={
        "owner": lambda g: g.task.owner,
        "slot": lambda g: f"{g.task.owner}/{g.task.slot}",
    },
)


def keep(tx: Transaction, task: Task, now: float) -> None:
    """Instead of the oldest of its slot. What was never started has printed nothing."""
    if not task.observed.container:
        return
    earlier = tx.find(GONE_TASKS, "slot", f"{task.owner}/{task.slot}")
    earlier.sort(key=lambda gone: gone.at)
    for old in earlier[: max(0, len(earlier) - KEPT_OF_SLOT + 1)]:
        tx.delete(GONE_TASKS, old.task.owner, old.task.id)
    tx.put(GONE_TASKS, GoneTask(task, now))


def of_owner(view: View, owner: str) -> list[Task]:
    return [gone.task for gone in view.find(GONE_TASKS, "owner", owner)]


def old(view: View, now: float) -> list[GoneTask]:
    """Those whose output is kept no longer."""
    return [gone for gone in view.scan(GONE_TASKS) if gone.at < now - KEPT_SECONDS]


def forget(tx: Transaction, rows: Sequence[GoneTask]) -> None:
    for each in rows:
        tx.delete(GONE_TASKS, each.task.owner, each.task.id)
