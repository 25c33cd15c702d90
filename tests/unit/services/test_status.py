"""What is said of a service is what is true of its tasks."""

from typing import Any

import pytest
from msgspec.structs import replace

from builders import a_node, a_service, a_task
from orca_master.app.schema import SCHEMA
from orca_master.cluster.model import NODES, NodeState
from orca_master.identity.model import TOKENS, Role, Token
from orca_master.services.model import SERVICES, Service, ServiceSpec
from orca_master.services.outcome import Ending, outcome, progress
from orca_master.services.status import Statuses, reason, status, word
from orca_master.services.strategy import SETTLE_SECONDS
from orca_master.state.rows import State
from orca_master.state.transaction import Transaction
from orca_master.tasks.model import TASKS, Task, TaskState, Wanted

NOW = 1000.0
FAILED = a_task(1, TaskState.FAILED, reason="image x not found")


@pytest.mark.parametrize(
    ("replicas", "tasks", "expected"),
    [
        (0, [], "stopped"),
        (1, [], "pending"),
        (1, [a_task(1)], "running"),
        (2, [a_task(1)], "degraded"),
        (1, [a_task(1, healthy=False)], "pending"),
        (1, [FAILED], "failed"),
        (2, [FAILED, a_task(2)], "degraded"),
        (1, [a_task(1, wanted=Wanted.STOP)], "pending"),
    ],
)
def test_the_status_word(replicas: int, tasks: list[Task], expected: str) -> None:
    assert word(a_service(replicas), tasks) == expected


def test_an_old_revision_that_serves_is_not_called_running() -> None:
    service = a_service(1, revision=2)
    old = a_task(1, revision=1)
    assert word(service, [old]) == "updating"
    failing = a_task(1, TaskState.FAILED, id="new", revision=2, reason="image x not found")
    assert word(service, [old, failing]) == "degraded"
    assert reason(service, [old, failing]) == "replica 1: image x not found"


def test_a_stopped_service_is_stopped_however_many_replicas_it_keeps() -> None:
    assert word(a_service(3, stopped=True), []) == "stopped"


def a_state(service: Service, *tasks: Task) -> State:
    tx = Transaction(State(SCHEMA))
    tx.put(SERVICES, service)
    for task in tasks:
        tx.put(TASKS, task)
    return tx.state


def test_the_documents_fields_are_there_to_the_letter() -> None:
    service = a_service(2)
    shown = status(a_state(service, a_task(1)), service, frozenset())
    expected = {
        "name": "web",
        "project": "default",
        "status": "degraded",
        "replicas": 2,
        "running_replicas": 1,
        "image": "app:1",
        "domain": None,
    }
    assert {key: getattr(shown, key) for key in expected} == expected


def the_outcome(service: Service, *tasks: Task) -> tuple[Ending | None, str]:
    found = outcome(a_state(service, *tasks), service, NOW)
    return found.ending, found.reason


def test_a_deploy_is_open_until_every_replica_is_ready() -> None:
    service = a_service(2)
    assert the_outcome(service, a_task(1)) == (None, "")
    assert the_outcome(service, a_task(1), a_task(2)) == (Ending.RUNNING, "")


def test_without_a_check_a_replica_must_have_run_for_a_moment() -> None:
    service = a_service(1)
    found = outcome(a_state(service, a_task(1, ready_at=NOW - 0.1)), service, NOW)
    assert (found.ending, found.look_at) == (None, NOW - 0.1 + SETTLE_SECONDS)
    checked = a_service(1, spec=ServiceSpec(image="app:1", port=80, health="/"))
    found = outcome(a_state(checked, a_task(1, ready_at=NOW - 0.1)), checked, NOW)
    assert found.ending is Ending.RUNNING


def test_a_failure_is_an_outcome_with_the_engines_reason() -> None:
    assert the_outcome(a_service(1), FAILED) == (Ending.FAILED, "image x not found")


def test_an_exit_is_told_with_its_code_and_replica() -> None:
    exited = a_task(2, TaskState.EXITED, exit_code=3)
    found = the_outcome(a_service(2), a_task(1), exited)
    assert found == (Ending.FAILED, "replica 2: exited with code 3")


def test_a_task_that_fits_nowhere_is_an_outcome() -> None:
    pending = a_task(1, TaskState.PENDING, pending_reason="no node fits (1 node: is down)")
    assert the_outcome(a_service(1), pending) == (Ending.FAILED, "no node fits (1 node: is down)")


def test_a_newer_deploy_supersedes() -> None:
    found = outcome(a_state(a_service(1, revision=2)), a_service(1, revision=1), NOW)
    assert (found.ending, found.reason) == (Ending.FAILED, "superseded by revision 2")


def test_progress_says_what_is_waited_for() -> None:
    service = a_service(2)
    preparing = a_task(2, TaskState.PREPARING)
    said = progress(a_state(service, a_task(1), preparing), service)
    assert said == "1 of 2 replicas ready; replica 2 is getting its image"


@pytest.mark.parametrize(
    ("table", "row"),
    [
        (SERVICES, a_service(2)),
        (TASKS, a_task(1, healthy=False)),
        (NODES, a_node(state=NodeState.DOWN)),
    ],
    ids=["services", "tasks", "nodes"],
)
def test_statuses_that_are_kept_are_never_those_of_before_a_change(table: Any, row: Any) -> None:
    statuses, before = Statuses(), a_state(a_service(1), a_task(1))
    shown = statuses.at(before, "default", None)
    tx = Transaction(before)
    tx.put(table, row)
    after = statuses.at(tx.state, "default", None)
    assert bytes(after) == bytes(Statuses().at(tx.state, "default", None)) != bytes(shown)


def test_statuses_are_made_once_while_nothing_changes_that_has_a_part_in_them() -> None:
    statuses, before = Statuses(), a_state(a_service(1), a_task(1))
    shown = statuses.at(before, "default", None)
    tx = Transaction(before)
    tx.put(TOKENS, Token("t", "ci", Role.VIEWER, "00", 0.0))
    assert statuses.at(tx.state, "default", None) is shown
    assert statuses.at(tx.state, "default", "other") is not shown


def test_a_replica_that_ended_is_shown_with_all_that_is_known_of_its_end() -> None:
    service = a_service(1)
    ended = a_task(1, TaskState.EXITED, exit_code=137)
    ended = replace(ended, observed=replace(ended.observed, probes="p", last_lines=("a", "b")))
    (shown,) = status(a_state(service, ended), service, ()).tasks
    assert (shown.exit_code, shown.signal) == (137, "SIGKILL")
    assert (shown.probes, shown.last_lines) == ("p", ["a", "b"])
    assert shown.reason == "was killed by SIGKILL (exit code 137)"
    assert shown.next_try_at is None
    waiting = a_task(1, TaskState.PENDING, attempt=2, not_before=NOW + 4, last_failure="x")
    (shown,) = status(a_state(service, waiting), service, ()).tasks
    assert (shown.attempt, shown.next_try_at, shown.reason) == (2, NOW + 4, "x")
    assert (shown.exit_code, shown.signal, shown.probes) == (None, None, None)
