"""A replica whose node is down: when it is replaced, and which of the two goes on later. Pure.

The generation decides which is the original: it grows with each task of a slot, whatever clocks say.
"""

from collections.abc import Collection, Sequence

from orca_master.services.model import Reconnect
from orca_master.tasks.model import Task


def may_be_replaced(lost: Sequence[Task], down: Collection[str]) -> bool:
    """Whether a replica of which only these are left, all on nodes that are down, gets another task now.

    Not where the only node that may run it is down: a replacement could go nowhere else.
    """
    return not any(task.constraints.node and task.node in down for task in lost)


def who_goes_on(reconnect: Reconnect, tasks: Sequence[Task]) -> Task:
    """Of several tasks of one replica and revision that could go on. The others go once it is ready.

    `best`: one that is ready, of several the newest; where none is, the one that is furthest, so that
    an original that only waits for its first check is not given up for one that has no place yet.
    """
    if reconnect is Reconnect.KEEP_ORIGINAL:
        return min(tasks, key=lambda t: t.order)
    if reconnect is Reconnect.KEEP_REPLACEMENT:
        return max(tasks, key=lambda t: t.order)
    return max(tasks, key=lambda t: (t.is_ready, t.observed.state, t.order))


def is_awaited(reconnect: Reconnect, task: Task, keep: Task, down: Collection[str]) -> bool:
    """Whether a task on a node that is down is to go on when the node returns, although `keep` is ready."""
    return (
        reconnect is Reconnect.KEEP_ORIGINAL
        and task.node in down
        and task.revision == keep.revision
        and not task.observed.state.is_over
        and task.order < keep.order
    )
