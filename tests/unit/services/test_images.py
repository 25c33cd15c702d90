"""What is stopped when replicas of one revision turn out to have several images."""

from typing import Any

from msgspec.structs import replace

from builders import a_node, a_service, a_spec, a_task
from orca_master.app.schema import SCHEMA
from orca_master.cluster.model import NODES
from orca_master.services import images
from orca_master.services.model import SERVICES, Service, ServiceSpec
from orca_master.services.rollouts.model import REVISIONS, Revision, number_key
from orca_master.state.rows import State
from orca_master.state.transaction import Transaction
from orca_master.tasks.model import TASKS, Task, TaskState, Wanted
from orca_master.tasks.operations import keep_spec

A, B = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"


def of_image(slot: int, digest: str, state: TaskState = TaskState.RUNNING, **fields: Any) -> Task:
    task = a_task(slot, state, **({"id": f"t{slot}{digest[7:8]}", "revision": 1} | fields))
    return replace(task, observed=replace(task.observed, image_digest=digest))


def settled(service: Service, *tasks: Task, digest: str = A) -> tuple[set[str], str]:
    """The ids of what is stopped, and the revision's digest."""
    tx = Transaction(State(SCHEMA))
    tx.put(NODES, a_node())
    tx.put(SERVICES, service)
    tx.put(
        REVISIONS, Revision(*service.key, 1, ServiceSpec(image="app:1"), 1.0, image_digest=digest)
    )
    spec = keep_spec(tx, a_spec())
    mine = [replace(task, spec=spec) for task in tasks]
    for task in mine:
        tx.put(TASKS, task)
    images.settle(tx, service, mine, now=5.0)
    revision = tx.get(REVISIONS, *service.key, number_key(1))
    assert revision is not None
    return {t.id for t in tx.scan(TASKS) if t.wanted is Wanted.STOP}, revision.image_digest


def test_the_first_replica_settles_it() -> None:
    early = of_image(2, B, created_at=1.0)
    late = of_image(1, A, TaskState.STARTING, created_at=2.0)
    assert settled(a_service(2), late, early, digest="") == ({late.id}, B)


def test_what_is_not_ready_yet_stops_at_once() -> None:
    starting = [of_image(slot, B, TaskState.STARTING) for slot in (1, 2)]
    assert settled(a_service(3), *starting, of_image(3, A))[0] == {task.id for task in starting}


def test_what_has_another_beside_it_stops_at_once() -> None:
    older = of_image(1, "", id="older", revision=0)
    other = of_image(1, B)
    assert settled(a_service(1), older, other)[0] == {other.id}


def test_of_those_that_serve_one_stops_at_a_time() -> None:
    serving = [of_image(slot, B) for slot in (1, 2)]
    assert settled(a_service(3), *serving, of_image(3, A))[0] == {serving[0].id}
    assert settled(a_service(3), *serving, of_image(3, A, healthy=False))[0] == set()
