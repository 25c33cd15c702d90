"""Fenced replicas: one after the other in each slot, whatever happens to nodes, revisions and drains."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from builders import a_node, a_service, a_task
from orca_common.env import Env
from orca_master.app.config import MasterConfig
from orca_master.app.schema import SCHEMA
from orca_master.cluster.leases import MARGIN_SECONDS, STOP_SECONDS, Leases
from orca_master.cluster.model import NODES, NodeState
from orca_master.services.fenced import may_run, reconcile_fenced
from orca_master.services.model import SERVICES, ServiceSpec
from orca_master.services.operations import reconcile_owner, task_spec
from orca_master.services.payload import ServiceIn
from orca_master.services.reconcile import Plan, Target
from orca_master.state.rows import State
from orca_master.state.transaction import Transaction
from orca_master.tasks.constraints import Constraints
from orca_master.tasks.model import TASKS, Task, TaskState, Wanted
from orca_master.tasks.on_nodes import TasksOnNodes
from orca_master.tasks.operations import keep_spec
from sim.env import SimClock, sim_env

NOW = 1000.0
LEASE = 10.0
FENCED = ServiceSpec(image="app:1", fence=True)


def plan(*tasks: Task, lapsed: tuple[str, ...] = (), revision: int = 1, **more: object) -> Plan:
    return reconcile_fenced(Target(revision, 1, False), tasks, set(lapsed), NOW, **more)  # type: ignore[arg-type]


def ids(found: Plan) -> tuple[list[str], int]:
    """Who is stopped, and how many are asked for."""
    return [task.id for task in found.stop], len(found.create)


def test_a_replica_of_a_lost_node_is_replaced_when_the_lease_is_over_and_stopped_for_good() -> None:
    lost = a_task(id="lost", node="away", generation=3)
    assert ids(plan(lost)) == ([], 0)
    found = plan(lost, lapsed=("away",))
    assert ids(found) == (["lost"], 1)
    assert found.create[0].generation == 4


def test_a_new_revision_waits_for_the_end_of_the_old_one() -> None:
    assert ids(plan(a_task(id="old"), revision=2)) == (["old"], 0)
    leaving = a_task(id="old", wanted=Wanted.STOP)
    assert ids(plan(leaving, revision=2)) == ([], 0)
    assert ids(plan(leaving, revision=2, lapsed=("id-n1",))) == ([], 1)
    assert ids(plan(revision=2)) == ([], 1)


def test_a_drain_stops_first_but_not_what_can_run_nowhere_else() -> None:
    assert ids(plan(a_task(id="here"), drained={"id-n1"})) == (["here"], 0)
    pinned = a_task(id="here", constraints=Constraints(node="n1"))
    assert ids(plan(pinned, drained={"id-n1"})) == ([], 0)
    assert ids(plan(pinned, drained={"id-n1"}, overdue={"id-n1"})) == (["here"], 0)


def test_a_drain_takes_no_more_replicas_at_a_time_than_it_may() -> None:
    tasks = [a_task(slot) for slot in (1, 2, 3)]
    target = Target(1, 3, False, max_moving=2)
    found = reconcile_fenced(target, tasks, set(), NOW, drained={"id-n1"})
    assert [task.slot for task in found.stop] == [1, 2]


def test_what_only_a_lost_node_may_run_waits_for_it() -> None:
    pinned = a_task(id="lost", node="away", constraints=Constraints(node="away"))
    assert ids(plan(pinned, lapsed=("away",))) == ([], 0)


def test_what_has_ended_is_tried_again_with_back_off() -> None:
    ended = a_task(1, TaskState.EXITED, id="ended", started_at=900.0, ended_at=901.0)
    found = plan(ended)
    assert ids(found) == ([], 1)
    assert (found.create[0].attempt, found.create[0].not_before) == (1, NOW + 1.0)


situations = st.lists(
    st.builds(
        a_task,
        slot=st.integers(1, 2),
        state=st.sampled_from([s for s in TaskState if s is not TaskState.GONE]),
        id=st.uuids().map(str),
        revision=st.integers(1, 2),
        generation=st.integers(1, 4),
        wanted=st.sampled_from([Wanted.RUN, Wanted.STOP]),
        node=st.sampled_from(["up", "away", "lapsed", "leaves"]),
    ),
    max_size=8,
    unique_by=lambda task: task.id,
)


@given(tasks=situations)
def test_nothing_is_asked_for_where_something_may_run_and_of_more_one_is_left(
    tasks: list[Task],
) -> None:
    found = reconcile_fenced(Target(2, 2, False), tasks, {"lapsed"}, NOW, drained={"leaves"})
    for slot in (1, 2):
        running = [t for t in tasks if t.slot == slot and may_run(t, {"lapsed"})]
        created = [create for create in found.create if create.slot == slot]
        assert len(created) <= (0 if running else 1)
        kept = [t for t in running if t.wanted is Wanted.RUN and t not in found.stop]
        assert len(kept) <= 1
        assert all(c.generation > t.generation for c in created for t in tasks if t.slot == slot)


@given(tasks=situations)
def test_it_settles_with_one_in_each_slot(tasks: list[Task]) -> None:
    """Whatever is stopped ends, whatever is asked for runs."""
    for _ in range(6):
        found = reconcile_fenced(Target(2, 2, False), tasks, {"lapsed"}, NOW, drained={"leaves"})
        stopped = {task.id for task in found.stop}
        tasks = [t for t in tasks if t.id not in stopped and t.wanted is Wanted.RUN]
        tasks += [
            a_task(
                c.slot,
                id=f"n{c.slot}-{c.generation}",
                revision=2,
                generation=c.generation,
                node="up",
            )
            for c in found.create
        ]
    alive = [t for t in tasks if not t.observed.state.is_over]
    assert sorted(t.slot for t in alive) == [1, 2]


class Hand(SimClock):
    at = 100.0

    def monotonic(self) -> float:
        return self.at


def leases() -> tuple[Leases, Hand]:
    clock, rest = Hand(), sim_env(1)
    env = Env(clock=clock, random=rest.random, disk=rest.disk, threads=rest.threads)
    return Leases(env, LEASE), clock


WHOLE = LEASE + STOP_SECONDS + MARGIN_SECONDS


def test_a_lease_counts_from_the_last_beat_that_may_be_acknowledged() -> None:
    held, clock = leases()
    clock.at = 150.0
    held.asked("n1")
    clock.at = 155.0
    assert held.left("n1") == WHOLE - 5.0
    clock.at = 150.0 + WHOLE
    assert held.left("n1") == 0.0


def test_a_new_leader_assumes_that_every_node_was_acknowledged_just_before() -> None:
    held, clock = leases()
    held.asked("n1")
    clock.at = 500.0
    held.begin()
    assert held.left("n1") == held.left("never-heard-of") == WHOLE


def a_state(*tasks: Task, node: NodeState = NodeState.READY, spec: ServiceSpec = FENCED) -> State:
    tx = Transaction(State(SCHEMA))
    tx.put(NODES, a_node("n1", state=node))
    service = a_service(spec=spec)
    tx.put(SERVICES, service)
    for task in tasks:
        tx.put(TASKS, task)
    keep_spec(tx, task_spec(spec))
    return tx.state


def look(state: State, *, left: float = 0.0) -> tuple[State, float | None]:
    tx, counter = Transaction(state), iter(range(100))
    again = reconcile_owner(
        tx,
        a_service().owner,
        now=NOW,
        new_id=lambda: (
            f"{state.version}-{next(counter)}-{len(tx.find(TASKS, 'owner', a_service().owner))}"
        ),
        lease_left=lambda _: left,
    )
    return tx.state, again


def tokens(state: State) -> list[int]:
    return sorted(task.fencing_token for task in state.scan(TASKS))


def test_each_start_has_a_higher_token_also_after_all_is_gone_and_the_service_was_purged() -> None:
    state, _ = look(a_state())
    assert tokens(state) == [1]
    for expected in (2, 3):
        tx = Transaction(state)
        for task in list(tx.scan(TASKS)):
            tx.delete(TASKS, task.owner, task.id)
        tx.delete(SERVICES, "default", "default", "web")
        tx.put(SERVICES, a_service(spec=FENCED))
        state, _ = look(tx.state)
        assert tokens(state) == [expected]


def test_what_is_not_fenced_has_no_token() -> None:
    state, _ = look(a_state(spec=ServiceSpec(image="app:1")))
    assert tokens(state) == [0]


def test_the_look_that_follows_is_when_the_lease_is_over() -> None:
    running = a_task(id="old", fencing_token=7)
    state, again = look(a_state(running, node=NodeState.DOWN), left=12.5)
    assert (tokens(state), again) == ([7], NOW + 12.5)


def test_a_node_that_was_removed_by_force_is_waited_for_too() -> None:
    running = a_task(
        id="old", fencing_token=7, spec=keep_spec(Transaction(a_state()), task_spec(FENCED))
    )
    tx = Transaction(a_state(running))
    TasksOnNodes().forget(tx, "id-n1")
    tx.delete(NODES, "id-n1")
    state, again = look(tx.state, left=3.0)
    assert ([t.id for t in state.scan(TASKS)], again) == (["old"], NOW + 3.0)
    state, _ = look(state, left=0.0)
    (task,) = state.scan(TASKS)
    assert task.id != "old"


def test_what_was_not_fenced_before_is_replaced_at_once() -> None:
    state, _ = look(a_state(a_task(id="old"), node=NodeState.DOWN), left=99.0)
    assert [t.id for t in state.scan(TASKS) if t.wanted is Wanted.RUN] != ["old"]
    assert len(list(state.scan(TASKS))) == 2


@pytest.mark.parametrize(
    ("fields", "fenced"),
    [
        ({}, False),
        ({"volumes": [{"name": "data", "target": "/data"}]}, True),
        ({"volumes": [{"name": "data", "target": "/data"}], "fence": False}, False),
        ({"fence": True}, True),
        ({"fence": None}, False),
    ],
)
def test_what_has_volumes_is_fenced_unless_it_says_otherwise(
    fields: dict[str, object], fenced: bool
) -> None:
    service = ServiceIn.model_validate({"name": "db", "image": "app:1", **fields})
    assert service.spec().fence is fenced


@pytest.mark.parametrize("value", ["yes", "true", 1, 0])
def test_fence_is_true_or_false_and_nothing_else(value: object) -> None:
    with pytest.raises(ValidationError, match="fence"):
        ServiceIn.model_validate({"name": "db", "image": "app:1", "fence": value})


def test_a_lease_is_longer_than_a_node_may_be_silent() -> None:
    assert MasterConfig().lease_seconds == 10.0
    assert MasterConfig(node_down_after_seconds=15.0).lease_seconds == 30.0
    with pytest.raises(ValueError, match="fence_lease_seconds: 3 is not more than"):
        MasterConfig(fence_lease_seconds=3.0)
