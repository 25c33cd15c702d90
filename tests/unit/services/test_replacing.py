"""A node is down and returns: which of two tasks of one replica goes on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import a_task
from orca_master.services.model import Reconnect
from orca_master.services.reconcile import Plan, Target, reconcile
from orca_master.tasks.model import Task, TaskState, Wanted

NOW = 1000.0
BEST, ORIGINAL, REPLACEMENT = Reconnect.BEST, Reconnect.KEEP_ORIGINAL, Reconnect.KEEP_REPLACEMENT


def original(state: TaskState = TaskState.RUNNING, **fields: object) -> Task:
    return a_task(1, state, id="original", node="back", generation=1, **fields)


def replacement(state: TaskState = TaskState.RUNNING, **fields: object) -> Task:
    """Made on a master whose clock was an hour behind."""
    return a_task(1, state, id="new", node="other", generation=2, created_at=1.0, **fields)


def plan(reconnect: Reconnect, *tasks: Task, down: tuple[str, ...] = ()) -> Plan:
    found = reconcile(Target(1, 1, False, reconnect=reconnect), list(tasks), set(down), NOW)
    assert found.create == []
    return found


@pytest.mark.parametrize(
    ("reconnect", "stopped"), [(BEST, "original"), (ORIGINAL, "new"), (REPLACEMENT, "original")]
)
def test_both_are_ready(reconnect: Reconnect, stopped: str) -> None:
    assert [t.id for t in plan(reconnect, original(), replacement()).stop] == [stopped]


@pytest.mark.parametrize("state", [TaskState.PENDING, TaskState.PREPARING, TaskState.STARTING])
@pytest.mark.parametrize(
    ("reconnect", "stopped"), [(BEST, ["new"]), (ORIGINAL, ["new"]), (REPLACEMENT, [])]
)
def test_the_original_is_healthy_and_the_replacement_is_not_yet(
    reconnect: Reconnect, stopped: list[str], state: TaskState
) -> None:
    assert [t.id for t in plan(reconnect, original(), replacement(state)).stop] == stopped


@pytest.mark.parametrize(
    ("reconnect", "stopped"), [(BEST, ["original"]), (ORIGINAL, []), (REPLACEMENT, ["original"])]
)
def test_the_original_is_back_but_not_healthy(reconnect: Reconnect, stopped: list[str]) -> None:
    """With `keep_original` the replacement serves until it is."""
    unwell = original(healthy=False)
    assert [t.id for t in plan(reconnect, unwell, replacement()).stop] == stopped


@pytest.mark.parametrize("reconnect", Reconnect)
def test_an_original_that_ended_leaves_the_replacement(reconnect: Reconnect) -> None:
    ended = original(TaskState.EXITED, started_at=900.0, ended_at=901.0)
    assert [t.id for t in plan(reconnect, ended, replacement()).stop] == ["original"]
    assert plan(reconnect, ended, replacement(TaskState.STARTING)).stop == []


def test_an_original_that_waits_for_its_check_is_not_given_up_for_one_without_a_place() -> None:
    assert [
        t.id for t in plan(BEST, original(healthy=False), replacement(TaskState.PENDING)).stop
    ] == ["new"]


@pytest.mark.parametrize(
    ("reconnect", "stopped"), [(BEST, ["original"]), (ORIGINAL, []), (REPLACEMENT, ["original"])]
)
def test_only_an_original_that_is_to_be_kept_is_waited_for(
    reconnect: Reconnect, stopped: list[str]
) -> None:
    found = plan(reconnect, original(), replacement(), down=("back",))
    assert [t.id for t in found.stop] == stopped


def test_an_original_of_an_older_revision_is_not_waited_for() -> None:
    new = a_task(1, id="new", node="other", generation=2, revision=2)
    found = reconcile(Target(2, 1, False, reconnect=ORIGINAL), [original(), new], {"back"}, NOW)
    assert [t.id for t in found.stop] == ["original"]


def test_two_nodes_that_return_one_after_the_other() -> None:
    first, second = original(), replacement()
    third = a_task(1, id="third", node="last", generation=3)
    assert plan(ORIGINAL, first, second, third, down=("back", "other")).stop == []
    assert plan(ORIGINAL, first, second, third, down=("back",)).stop == [third]
    assert plan(ORIGINAL, first, second).stop == [second]


def test_each_replacement_is_of_a_higher_generation() -> None:
    tasks = [original(), replacement(wanted=Wanted.STOP)]
    (create,) = reconcile(Target(1, 1, False), tasks, {"back"}, NOW).create
    assert create.generation == 3


slots = st.lists(
    st.builds(
        a_task,
        slot=st.integers(1, 2),
        state=st.sampled_from(
            [TaskState.PENDING, TaskState.STARTING, TaskState.RUNNING, TaskState.EXITED]
        ),
        id=st.uuids().map(str),
        healthy=st.booleans(),
        generation=st.integers(1, 4),
        wanted=st.sampled_from([Wanted.RUN, Wanted.RUN, Wanted.STOP]),
        node=st.sampled_from(["up", "other", "gone", "leaves"]),
    ),
    max_size=8,
    unique_by=lambda task: task.id,
)


@given(tasks=slots, reconnect=st.sampled_from(Reconnect))
def test_whatever_is_wanted_of_returning_nodes_one_that_is_ready_stays_until_another_is(
    tasks: list[Task], reconnect: Reconnect
) -> None:
    target = Target(1, 2, False, reconnect=reconnect)
    found = reconcile(target, tasks, {"gone"}, NOW, drained={"leaves"})
    for slot in (1, 2):
        served = [t for t in tasks if t.slot == slot and _serves(t)]
        assert not served or any(t not in found.stop for t in served)
    after = [t for t in tasks if t not in found.stop]
    after += [
        a_task(c.slot, TaskState.PENDING, id=f"new-{c.slot}", node="", generation=c.generation)
        for c in found.create
    ]
    again = reconcile(target, after, {"gone"}, NOW, drained={"leaves"})
    assert (again.create, again.stop) == ([], [])


@given(tasks=slots, reconnect=st.sampled_from(Reconnect))
def test_when_all_that_was_kept_is_ready_and_back_one_is_left(
    tasks: list[Task], reconnect: Reconnect
) -> None:
    target = Target(1, 2, False, reconnect=reconnect)
    all_ready = [
        a_task(t.slot, id=t.id, node="up", generation=t.generation, wanted=t.wanted) for t in tasks
    ]
    found = reconcile(target, all_ready, set(), NOW)
    for slot in (1, 2):
        kept = [
            t
            for t in all_ready
            if t.slot == slot and t.wanted is Wanted.RUN and t not in found.stop
        ]
        assert len(kept) <= 1


def _serves(task: Task) -> bool:
    return task.is_ready and task.wanted is Wanted.RUN and task.node != "gone"
