"""What runs on nodes, for the cluster's endpoints; see `cluster.port.Work`."""

from orca_master.cluster.port import Left
from orca_master.state.transaction import Transaction, View
from orca_master.tasks.model import HOMES, TASKS, Task, Wanted
from orca_master.tasks.operations import forget, forget_homes, stop


class TasksOnNodes:
    def left(self, view: View, node_id: str) -> list[Left]:
        """In order of project, name and replica."""
        found = [t for t in view.find(TASKS, "node", node_id) if not t.observed.state.is_over]
        found.sort(key=lambda task: (task.project, task.name, task.slot))
        return [Left(t.project, t.name, t.slot, _why_it_stays(view, t)) for t in found]

    def forget(self, tx: Transaction, node_id: str) -> None:
        """What is fenced and may still run is kept in mind until its lease is over."""
        for task in tx.find(TASKS, "node", node_id):
            if task.fencing_token and not task.observed.state.is_over:
                stop(tx, task)
            else:
                forget(tx, task)
        forget_homes(tx, tx.find(HOMES, "node", node_id))


def _why_it_stays(view: View, task: Task) -> str:
    """Why the replica that is to come after it has no node yet."""
    others = view.find(TASKS, "owner", task.owner)
    pending = (t for t in others if t.slot == task.slot and not t.node and t.wanted is Wanted.RUN)
    return next((t.pending_reason for t in pending if t.pending_reason), "")
