"""When a service may start, and which requests close a circle."""

from typing import Any

import pytest
from pydantic import ValidationError

from builders import a_node, a_service, a_task
from orca_master.app.schema import SCHEMA
from orca_master.cluster.model import NODES, NodeState
from orca_master.errors import Conflict, Invalid
from orca_master.services.dependencies import check, check_removal, waiting_for
from orca_master.services.model import SERVICES, Condition, Dependency, Policy, Service
from orca_master.services.payload import ServiceIn
from orca_master.services.rollouts.model import DEPLOYMENTS, Deployment, DeploymentState
from orca_master.services.strategy import Strategy
from orca_master.state.rows import State
from orca_master.state.transaction import Transaction
from orca_master.tasks.model import TASKS, Task, TaskState

STARTED = Condition.STARTED


def needing(*names: str, condition: Condition = Condition.HEALTHY) -> Policy:
    return Policy(depends_on=tuple(Dependency(name, condition) for name in names))


def a_web(*names: str, condition: Condition = Condition.HEALTHY) -> Service:
    return a_service(policy=needing(*names, condition=condition), waits=True)


def a_state(*rows: Service | Task | Deployment) -> State:
    tx = Transaction(State(SCHEMA))
    tx.put(NODES, a_node())
    tx.put(NODES, a_node("gone", state=NodeState.DOWN))
    for row in rows:
        if isinstance(row, Service):
            tx.put(SERVICES, row)
        elif isinstance(row, Task):
            tx.put(TASKS, row)
        else:
            tx.put(DEPLOYMENTS, row)
    return tx.state


def of_db(slot: int = 1, state: TaskState = TaskState.RUNNING, **fields: Any) -> Task:
    return a_task(slot, state, name="db", owner="service:default/default/db", **fields)


def a_db(replicas: int = 1, **fields: Any) -> Service:
    return a_service(replicas, name="db", **fields)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([], "there is no such service"),
        ([a_db(purge=True)], "there is no such service"),
        ([a_db(stopped=True), of_db()], "it is stopped"),
        ([a_db()], "0 of 1 replicas ready"),
        ([a_db(0)], "0 of 1 replicas ready"),
        ([a_db(2), of_db()], "1 of 2 replicas ready"),
        ([a_db(), of_db(healthy=False)], "0 of 1 replicas ready"),
        ([a_db(), of_db(node="id-gone")], "0 of 1 replicas ready"),
        ([a_db(), of_db(2)], "0 of 1 replicas ready"),
        ([a_db(waits=True), of_db()], "its rollout to revision 1 is not over"),
        ([a_db(2), of_db(), of_db(2)], ""),
    ],
)
def test_healthy_is_as_many_replicas_as_are_wanted(rows: list[Service | Task], why: str) -> None:
    web = a_web("db")
    assert waiting_for(a_state(web, *rows), web) == ([f"waits for db: {why}"] if why else [])


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([a_db()], "none of its replicas has started"),
        ([a_db(), of_db(1, TaskState.PREPARING)], "none of its replicas has started"),
        ([a_db(), of_db(1, TaskState.EXITED, started_at=5.0)], "none of its replicas has started"),
        ([a_db(3), of_db(2, TaskState.STARTING, started_at=5.0)], ""),
    ],
)
def test_started_is_one_replica_that_has_begun(rows: list[Service | Task], why: str) -> None:
    web = a_web("db", condition=STARTED)
    assert waiting_for(a_state(web, *rows), web) == ([f"waits for db: {why}"] if why else [])


@pytest.mark.parametrize(
    ("fields", "is_there"),
    [
        ({}, False),
        ({"holding": True, "strategy": Strategy.CANARY}, False),
        ({"holding": True, "strategy": Strategy.CANARY, "stage_at": 5.0}, True),
        ({"state": DeploymentState.PAUSED}, True),
        ({"state": DeploymentState.REVERTING}, False),
        ({"state": DeploymentState.SUCCEEDED}, True),
    ],
)
def test_a_rollout_on_its_way_is_waited_for(fields: dict[str, Any], is_there: bool) -> None:
    going = Deployment("default", "default", "db", 2, 2, 1, 5.0, **fields)
    db = a_db(revision=2, deployment=2)
    web = a_web("db")
    waits = waiting_for(a_state(web, db, of_db(), going), web)
    told = [] if is_there else ["waits for db: its rollout to revision 2 is not over"]
    assert waits == told


def test_a_circle_is_shown_also_over_what_was_deployed_before() -> None:
    api = a_service(name="api", policy=needing("db"))
    db = a_db(policy=needing("web"))
    with pytest.raises(Invalid, match="web → api → db → web"):
        check(a_state(api, db), "default", [("default", "web", needing("api").depends_on)])
    with pytest.raises(Invalid, match="depends on itself: web → web"):
        check(a_state(), "default", [("default", "web", needing("web").depends_on)])
    asked = [("default", name, needing(of).depends_on) for name, of in (("b", "c"), ("c", "b"))]
    with pytest.raises(Invalid) as refused:
        check(a_state(), "default", [("default", "a", ()), *asked])
    assert refused.value.problems[0].field in ("services.1.depends_on", "services.2.depends_on")


def test_a_circle_that_the_request_opens_again_is_none() -> None:
    api = a_service(name="api", policy=needing("web"))
    web = ("default", "web", needing("api").depends_on)
    check(a_state(api), "default", [web, ("default", "api", ())])
    check(a_state(api), "default", [("other", "api", ()), ("other", "web", web[2])])


def test_a_name_that_is_nowhere_is_named() -> None:
    asked = ("default", "web", needing("db", "cache").depends_on)
    with pytest.raises(Invalid) as refused:
        check(a_state(a_db(purge=True)), "default", [asked, ("default", "cache", ())])
    (problem,) = refused.value.problems
    assert problem.field == "services.0.depends_on.db"
    assert "no service db in project default" in problem.message


def test_a_long_chain_is_no_circle() -> None:
    names = [f"s{number}" for number in range(3000)]
    rows = [
        a_service(name=name, policy=needing(*names[number : number + 1]))
        for number, name in enumerate(names[1:])
    ]
    check(a_state(*rows), "default", [("default", "s0", ())])
    with pytest.raises(Invalid, match=r"s0 → s2999 → .* → s1 → s0$"):
        check(a_state(*rows), "default", [("default", "s0", needing("s2999").depends_on)])


def test_what_others_depend_on_is_not_removed_without_them() -> None:
    web, db = a_web("db"), a_db()
    state = a_state(web, db)
    with pytest.raises(Conflict, match="web depends on db: remove what depends on it first"):
        check_removal(state, [db])
    check_removal(state, [web])
    check_removal(state, [web, db])


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (["db", "cache"], [("cache", "healthy"), ("db", "healthy")]),
        ({"db": {}}, [("db", "healthy")]),
        ({"db": {"condition": "service_started"}}, [("db", "started")]),
        ({"db": {"condition": "service_healthy"}}, [("db", "healthy")]),
    ],
)
def test_both_forms_are_understood(written: object, expected: list[tuple[str, str]]) -> None:
    service = ServiceIn.model_validate({"name": "web", "image": "app:1", "depends_on": written})
    found = [(each.name, str(each.condition)) for each in service.policy().depends_on]
    assert found == expected


@pytest.mark.parametrize(
    "written",
    [
        ["db", "db"],
        ["No Name"],
        [1],
        "db",
        {"db": {"condition": "done"}},
        {"db": None},
        {"db": {"x": 1}},
    ],
)
def test_what_is_no_dependency_is_refused(written: object) -> None:
    with pytest.raises(ValidationError):
        ServiceIn.model_validate({"name": "web", "image": "app:1", "depends_on": written})
