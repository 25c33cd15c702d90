"""A way back: what ran well before and never stopped need not prove itself again; what is new must."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from builders import a_task
from orca_master.services.model import ServiceSpec
from orca_master.services.reconcile import Lane, Target, reconcile
from orca_master.services.rollouts.advance import advance
from orca_master.services.rollouts.model import Deployment, DeploymentState, Revision
from orca_master.services.rollouts.operations import proven
from orca_master.services.rollouts.scene import Scene
from orca_master.services.strategy import Rollout
from orca_master.tasks.model import Task

BEGUN, NOW = 500.0, 1000.0
STABLE = Revision("t", "p", "web", 1, ServiceSpec(image="app:1"), made_at=1.0, stable_at=100.0)


def going_back() -> Deployment:
    """From revision 2 to revision 1."""
    state = DeploymentState.REVERTING
    return Deployment("t", "p", "web", 2, 2, 1, BEGUN, state=state, progress_at=BEGUN)


def scene(tasks: list[Task], settle: float, deployment: Deployment, goal: Revision) -> Scene:
    known = proven(goal, deployment, tasks)
    return Scene(len({task.slot for task in tasks}), tasks, set(), NOW, settle, known)


made_before = st.floats(1.0, BEGUN)
made_after = st.floats(BEGUN, NOW, exclude_min=True)
became_ready = st.floats(BEGUN, NOW)
settles = st.floats(501.0, 1e6)


@given(st.lists(st.tuples(made_before, became_ready), min_size=1, max_size=6), settles)
def test_it_is_over_at_once_where_no_old_replica_was_stopped(
    made: list[tuple[float, float]], settle: float
) -> None:
    """However young they are, and however short they have been ready."""
    tasks = [
        a_task(slot, id=f"t{slot}", created_at=at, ready_at=ready)
        for slot, (at, ready) in enumerate(made, start=1)
    ]
    back = going_back()
    assert advance(back, Rollout(), scene(tasks, settle, back, STABLE)).state == "reverted"


@given(
    st.lists(st.tuples(made_before, became_ready), max_size=5),
    st.tuples(made_after, became_ready),
    settles,
)
def test_one_that_was_started_again_must_stay_ready_first(
    made: list[tuple[float, float]], again: tuple[float, float], settle: float
) -> None:
    tasks = [
        a_task(slot, id=f"t{slot}", created_at=at, ready_at=ready)
        for slot, (at, ready) in enumerate([*made, again], start=1)
    ]
    back = going_back()
    found = advance(back, Rollout(), scene(tasks, settle, back, STABLE))
    assert (found.state, found.settled) == ("reverting", len(made))
    waited = scene(tasks, 0.0, back, STABLE)
    assert advance(back, Rollout(), waited).state == "reverted"


@given(made_before, became_ready, settles)
def test_a_revision_whose_rollout_never_succeeded_has_proven_nothing(
    made: float, ready: float, settle: float
) -> None:
    bad = Revision("t", "p", "web", 1, STABLE.spec, made_at=1.0)
    back = going_back()
    found = scene([a_task(1, created_at=made, ready_at=ready)], settle, back, bad)
    assert advance(back, Rollout(), found).state == "reverting"


def test_on_the_way_to_a_revision_only_what_ran_when_it_was_stable_has_proven_itself() -> None:
    """Replicas that were kept warm take over at once."""
    again = replace(going_back(), state=DeploymentState.RUNNING, revision=1, base=2)
    warm, new = a_task(1, id="warm", created_at=90.0), a_task(2, id="new", created_at=400.0)
    other = a_task(2, id="other", revision=2, created_at=90.0)
    assert proven(STABLE, again, [warm, new, other]) == {"warm"}


def test_a_slot_with_two_of_the_new_revision_and_an_old_one_is_on_its_way_still() -> None:
    """Found by a simulation: a node came back, and the next slot began one too early."""
    back, new, old = (
        a_task(1, id="back", revision=2),
        a_task(1, id="new", revision=2, ready_at=NOW - 1.0),
        a_task(1, id="old"),
    )
    for tasks, expected in (
        ([back, old], False),
        ([back, new], False),
        ([new, old], True),
        ([back, new, old], True),
        ([old], True),
    ):
        assert Scene(1, tasks, set(), NOW, settle=60.0).is_on_way(1, 2) is expected


def test_what_is_newer_stops_at_once_for_an_old_one_that_has_proven_itself() -> None:
    old = a_task(1, id="old", ready_at=NOW - 1.0)
    new = a_task(1, id="new", revision=2, ready_at=NOW - 1.0)
    lanes = {1: Lane(1, drops=True)}
    waits = Target(1, 1, stop_first=False, lanes=lanes, settle=60.0)
    assert reconcile(waits, [old, new], set(), NOW).stop == []
    goes = Target(1, 1, stop_first=False, lanes=lanes, settle=60.0, proven={"old"})
    assert reconcile(goes, [old, new], set(), NOW).stop == [new]
