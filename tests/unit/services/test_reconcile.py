"""What a service needs next: one claim a test, then properties over random situations."""

from hypothesis import given
from hypothesis import strategies as st

from builders import a_task
from orca_master.services.reconcile import Target, backoff_seconds, reconcile
from orca_master.tasks.constraints import Constraints
from orca_master.tasks.model import Task, TaskState, Wanted

NOW = 1000.0


def target(replicas: int = 1, revision: int = 1, *, stop_first: bool = False) -> Target:
    return Target(revision, replicas, stop_first)


def test_an_empty_service_gets_a_task_in_each_slot() -> None:
    plan = reconcile(target(3), [], set(), NOW)
    assert [create.slot for create in plan.create] == [1, 2, 3]
    assert plan.stop == []


def test_what_runs_as_wanted_is_left_alone() -> None:
    plan = reconcile(target(2), [a_task(1), a_task(2)], set(), NOW)
    assert plan.create == []
    assert plan.stop == []


def test_surplus_replicas_stop() -> None:
    extra = a_task(3)
    plan = reconcile(target(2), [a_task(1), a_task(2), extra], set(), NOW)
    assert plan.stop == [extra]


def test_a_new_revision_comes_up_before_the_old_one_stops() -> None:
    old = a_task(1, id="old", revision=1)
    plan = reconcile(target(1, revision=2), [old], set(), NOW)
    assert [create.slot for create in plan.create] == [1]
    assert plan.stop == []
    starting = a_task(1, TaskState.STARTING, id="new", revision=2)
    assert reconcile(target(1, revision=2), [old, starting], set(), NOW).stop == []
    ready = a_task(1, id="new", revision=2)
    assert reconcile(target(1, revision=2), [old, ready], set(), NOW).stop == [old]


def test_a_fixed_host_port_makes_the_old_one_stop_first() -> None:
    old = a_task(1, id="old", revision=1)
    plan = reconcile(target(1, revision=2, stop_first=True), [old], set(), NOW)
    assert plan.create == []
    assert plan.stop == [old]
    leaving = a_task(1, id="old", revision=1, wanted=Wanted.STOP)
    plan = reconcile(target(1, revision=2, stop_first=True), [leaving], set(), NOW)
    assert plan.create == []
    plan = reconcile(target(1, revision=2, stop_first=True), [], set(), NOW)
    assert [create.slot for create in plan.create] == [1]


def test_what_runs_on_a_drained_node_goes_on_until_its_replacement_is_ready() -> None:
    old = a_task(1, id="old", node="leaves")
    plan = reconcile(target(), [old], set(), NOW, drained={"leaves"})
    assert ([create.slot for create in plan.create], plan.stop) == ([1], [])
    pending = a_task(1, TaskState.PENDING, id="new", node="")
    starting = a_task(1, TaskState.STARTING, id="new", node="stays")
    for new in (pending, starting):
        plan = reconcile(target(), [old, new], set(), NOW, drained={"leaves"})
        assert (plan.create, plan.stop) == ([], [])
    ready = a_task(1, id="new", node="stays")
    assert reconcile(target(), [old, ready], set(), NOW, drained={"leaves"}).stop == [old]


def test_a_fixed_host_port_is_no_reason_to_stop_first_on_a_drained_node() -> None:
    old = a_task(1, id="old", node="leaves")
    plan = reconcile(target(stop_first=True), [old], set(), NOW, drained={"leaves"})
    assert ([create.slot for create in plan.create], plan.stop) == ([1], [])


def test_a_replacement_that_fails_is_tried_again_and_the_original_goes_on() -> None:
    old = a_task(1, id="old", node="leaves")
    failed = a_task(1, TaskState.EXITED, id="new", node="stays", started_at=900.0, ended_at=901.0)
    plan = reconcile(target(), [old, failed], set(), NOW, drained={"leaves"})
    assert [create.attempt for create in plan.create] == [1]
    assert plan.stop == []


def test_of_several_on_drained_nodes_one_goes_on() -> None:
    first = a_task(1, id="first", node="leaves", created_at=1.0)
    second = a_task(1, id="second", node="leaves-too", created_at=2.0)
    pending = a_task(1, TaskState.PENDING, id="third", node="")
    drained = {"leaves", "leaves-too"}
    for tasks, created in (([first, second], 1), ([first, second, pending], 0)):
        plan = reconcile(target(), tasks, set(), NOW, drained=drained)
        assert (len(plan.create), plan.stop) == (created, [second])


def test_so_many_leave_a_drained_node_at_a_time() -> None:
    old = [a_task(slot, node="leaves") for slot in (1, 2, 3, 4)]

    def plan(*new: Task, most: int):
        wanted = Target(1, 4, stop_first=False, max_moving=most)
        return reconcile(wanted, [*old, *new], set(), NOW, drained={"leaves"})

    assert [create.slot for create in plan(most=1).create] == [1]
    assert [create.slot for create in plan(most=3).create] == [1, 2, 3]
    coming = a_task(2, TaskState.STARTING, id="new", node="n2")
    assert plan(coming, most=1).create == []
    assert [create.slot for create in plan(coming, most=2).create] == [1]
    there = a_task(2, id="new", node="n2")
    assert [create.slot for create in plan(there, most=1).create] == [1]
    assert plan(there, most=1).stop == [old[1]]


def test_once_overdue_what_is_left_is_stopped_and_replaced_whatever_comes_after() -> None:
    old = [a_task(slot, node="leaves") for slot in (1, 2)]
    nodes = {"leaves"}
    plan = reconcile(target(2), old, set(), NOW, drained=nodes, overdue=nodes)
    assert plan.stop == old
    assert [create.slot for create in plan.create] == [1, 2]
    older = a_task(1, node="leaves", revision=0)
    assert older in reconcile(target(), [older], set(), NOW, drained=nodes, overdue=nodes).stop


def test_undrained_in_between_the_original_stays() -> None:
    old = a_task(1, id="old", node="left")
    starting = a_task(1, TaskState.STARTING, id="new", node="stays")
    plan = reconcile(target(), [old, starting], set(), NOW)
    assert (plan.create, plan.stop) == ([], [starting])


def test_a_drained_node_that_is_down_has_lost_its_work() -> None:
    lost = a_task(1, id="old", node="leaves")
    plan = reconcile(target(), [lost], {"leaves"}, NOW, drained={"leaves"})
    assert [create.slot for create in plan.create] == [1]


def test_a_crashed_replica_comes_back_after_a_wait_that_grows() -> None:
    crashed = a_task(
        1, TaskState.EXITED, attempt=2, started_at=900.0, ended_at=910.0, reason="oops"
    )
    (create,) = reconcile(target(), [crashed], set(), NOW).create
    assert (create.attempt, create.not_before) == (3, NOW + backoff_seconds(3))
    assert create.last_failure == "oops"


def test_a_replica_that_ran_long_starts_the_count_anew() -> None:
    crashed = a_task(1, TaskState.EXITED, attempt=7, started_at=100.0, ended_at=900.0)
    (create,) = reconcile(target(), [crashed], set(), NOW).create
    assert create.attempt == 1


def test_the_last_failure_is_kept_until_the_next_one_or_success() -> None:
    first = a_task(1, TaskState.EXITED, id="a", created_at=1.0)
    second = a_task(1, TaskState.EXITED, id="b", created_at=2.0)
    waiting = a_task(1, TaskState.PENDING, id="c", created_at=3.0)
    assert reconcile(target(), [second, waiting], set(), NOW).stop == []
    assert reconcile(target(), [first, second, waiting], set(), NOW).stop == [first]
    ready = a_task(1, id="c", created_at=3.0)
    assert reconcile(target(), [second, ready], set(), NOW).stop == [second]


def test_a_replica_on_a_node_that_is_down_gets_a_replacement() -> None:
    lost = a_task(1, node="gone")
    plan = reconcile(target(), [lost], {"gone"}, NOW)
    assert [create.slot for create in plan.create] == [1]
    assert plan.stop == []


def test_the_lost_one_is_stopped_only_when_its_replacement_is_ready() -> None:
    lost, new = a_task(1, id="lost", node="gone"), a_task(1, id="new", created_at=20.0)
    assert reconcile(target(), [lost, new], {"gone"}, NOW).stop == [lost]
    pending = a_task(1, TaskState.PENDING, id="new", created_at=20.0)
    plan = reconcile(target(), [lost, pending], {"gone"}, NOW)
    assert (plan.create, plan.stop) == ([], [])


def test_an_original_that_returns_in_time_stays() -> None:
    original = a_task(1, id="original", node="back")
    starting = a_task(1, TaskState.STARTING, id="new", created_at=20.0)
    assert reconcile(target(), [original, starting], set(), NOW).stop == [starting]


def test_a_pinned_replica_waits_for_its_node() -> None:
    lost = a_task(1, node="gone", constraints=Constraints(node="n9"))
    plan = reconcile(target(), [lost], {"gone"}, NOW)
    assert (plan.create, plan.stop) == ([], [])


def test_backoff_grows_to_a_ceiling() -> None:
    waits = [backoff_seconds(attempt) for attempt in range(1, 12)]
    assert waits[:4] == [1.0, 2.0, 4.0, 8.0]
    assert waits[-1] == 300.0
    assert backoff_seconds(10_000) == 300.0


situations = st.lists(
    st.builds(
        a_task,
        slot=st.integers(1, 4),
        state=st.sampled_from(
            [
                TaskState.PENDING,
                TaskState.ASSIGNED,
                TaskState.STARTING,
                TaskState.RUNNING,
                TaskState.EXITED,
                TaskState.FAILED,
            ]
        ),
        id=st.uuids().map(str),
        revision=st.integers(1, 3),
        created_at=st.floats(0, 900),
        healthy=st.booleans(),
        wanted=st.sampled_from([Wanted.RUN, Wanted.RUN, Wanted.STOP]),
        node=st.sampled_from(["up", "up", "gone"]),
    ),
    max_size=12,
    unique_by=lambda task: task.id,
)


@given(tasks=situations, replicas=st.integers(0, 4), stop_first=st.booleans())
def test_whatever_the_situation_no_ready_replica_goes_without_a_better_one(
    tasks: list[Task], replicas: int, stop_first: bool
) -> None:
    plan = reconcile(target(replicas, 3, stop_first=stop_first), tasks, {"gone"}, NOW)
    assert len({task.id for task in plan.stop}) == len(plan.stop)
    created = [create.slot for create in plan.create]
    assert len(set(created)) == len(created)
    assert all(1 <= slot <= replicas for slot in created)
    assert all(task.wanted is Wanted.RUN for task in plan.stop)
    for task in plan.stop:
        if task.is_ready and task.node != "gone" and task.slot <= replicas and not stop_first:
            others = [t for t in tasks if t.slot == task.slot and t not in plan.stop]
            assert any(t.is_ready and t.revision == 3 for t in others)


@given(tasks=situations, replicas=st.integers(0, 4))
def test_after_its_own_steps_the_plan_has_nothing_more_to_do(
    tasks: list[Task], replicas: int
) -> None:
    plan = reconcile(target(replicas, 3), tasks, {"gone"}, NOW)
    after = [task for task in tasks if task not in plan.stop]
    after += [
        a_task(c.slot, TaskState.PENDING, id=f"new-{c.slot}", revision=3, created_at=NOW)
        for c in plan.create
    ]
    again = reconcile(target(replicas, 3), after, {"gone"}, NOW)
    assert (again.create, again.stop) == ([], [])
