"""What a rollout sees: the tasks of one service, slot by slot. Pure."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from orca_master.tasks.model import Task, TaskState, Wanted


@dataclass(frozen=True, slots=True)
class Scene:
    """`tasks`: all of the service's. `down`: ids of nodes that are so. `settle`: for how many seconds a new
    replica must be ready before it counts; `proven`: ids of tasks that count as soon as they are. `now` in
    Unix seconds."""

    replicas: int
    tasks: Sequence[Task]
    down: Collection[str]
    now: float
    settle: float = 0.0
    proven: Collection[str] = frozenset()
    _slots: dict[int, list[Task]] = field(default_factory=lambda: defaultdict(list), init=False)

    def __post_init__(self) -> None:
        for task in self.tasks:
            if task.wanted is Wanted.RUN and task.slot <= self.replicas:
                self._slots[task.slot].append(task)

    @property
    def slots(self) -> range:
        return range(1, self.replicas + 1)

    def wanted(self, slot: int) -> Sequence[Task]:
        """The slot's tasks that are not told to stop, ended ones too."""
        return self._slots.get(slot, ())

    def alive(self, slot: int) -> list[Task]:
        return [t for t in self.wanted(slot) if not t.observed.state.is_over]

    def is_ready(self, task: Task) -> bool:
        return task.is_ready and task.node not in self.down

    def is_settled(self, task: Task) -> bool:
        has_proven = task.id in self.proven or self.now - task.ready_at >= self.settle
        return has_proven and self.is_ready(task)

    def has_ready(self, slot: int, revision: int = 0) -> bool:
        """Whether the slot has a ready task, of this revision (0: of any)."""
        return any(self.is_ready(t) for t in self.wanted(slot) if revision in (0, t.revision))

    def has_settled(self, slot: int, revision: int) -> bool:
        return any(self.is_settled(t) for t in self.wanted(slot) if t.revision == revision)

    def is_on_way(self, slot: int, revision: int) -> bool:
        """Also while there are two of this revision, because a node came back, and one of another: it goes
        on until it is decided which of the two stays."""
        of_it = [task.revision == revision for task in self.alive(slot)]
        is_undecided = sum(of_it) > 1 and not all(of_it)
        return is_undecided or not self.has_settled(slot, revision)

    def settled(self, revision: int, slots: range) -> int:
        return sum(self.has_settled(slot, revision) for slot in slots)

    def others(self, revision: int) -> list[Task]:
        """Tasks of other revisions that are not told to stop and may run."""
        return [t for s in self.slots for t in self.alive(s) if t.revision != revision]


def is_waiting_for_place(task: Task) -> bool:
    return task.observed.state is TaskState.PENDING and bool(task.pending_reason)
