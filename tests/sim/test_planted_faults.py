"""The simulation must find faults that are planted on purpose; one that finds none proves nothing.

Each fault is planted by replacing one piece of the product for the length of a test.
"""

from collections.abc import Callable

import pytest

from orca_master.state.transaction import View
from orca_master.tasks import dispatcher, operations
from orca_master.tasks.model import TASKS, Task
from orca_master.tasks.placement import Placement
from orca_worker.agent import Agent
from orca_worker.task import TaskRunner
from sim.disk import SimDisk
from sim.history import History
from sim.virtual_time import run_virtual

SEEDS = 60

Plant = Callable[[pytest.MonkeyPatch], None]


def acknowledged_before_it_is_synced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SimDisk, "sync", lambda self, file: None)


def a_late_report_takes_a_task_back(patch: pytest.MonkeyPatch) -> None:
    from msgspec.structs import replace

    def observe(tx: operations.Transaction, task: Task, observed: operations.Observed) -> None:
        tx.put(TASKS, replace(task, observed=observed))

    patch.setattr(operations, "_observe_one", observe)


def a_node_that_was_down_need_not_say_hello_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dispatcher.Dispatcher, "_is_ready", lambda self, node_id: True)


def what_vanished_is_not_noticed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(operations, "_vanished", lambda tx, task: None)


def what_is_unknown_is_left_running(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Agent, "_remove_unknown", lambda self, runtime, task_id: None)


def stopped_tasks_are_not_removed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TaskRunner, "want_stop", lambda self: None)


def pending_tasks_are_tried_once(patch: pytest.MonkeyPatch) -> None:
    plan = operations.plan_placements

    def only_new_ones(view: View, *, now: float) -> list[Placement]:
        said = any(task.pending_reason for task in view.find(TASKS, "unplaced", "yes"))
        return [] if said else plan(view, now=now)

    patch.setattr("orca_master.services.controller.plan_placements", only_new_ones)


PLANTED: list[Plant] = [
    acknowledged_before_it_is_synced,
    a_late_report_takes_a_task_back,
    a_node_that_was_down_need_not_say_hello_again,
    what_vanished_is_not_noticed,
    what_is_unknown_is_left_running,
    stopped_tasks_are_not_removed,
    pending_tasks_are_tried_once,
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    for seed in range(1, SEEDS + 1):
        try:
            run_virtual(History(seed).run())
        except Exception:  # a violation, or the product's own refusal to go on
            return
    pytest.fail(f"{SEEDS} histories did not find it")


def test_a_seed_replays_exactly() -> None:
    stories = []
    for _ in range(2):
        history = History(55)
        run_virtual(history.run())
        stories.append((history.story, history.counts))
    assert stories[0] == stories[1]
