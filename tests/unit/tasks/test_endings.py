"""How the end of a task is told, and how much of what a worker says of it is kept."""

import pytest
from msgspec.structs import replace

from builders import a_task
from orca_master.tasks.endings import describe_end, signal_name
from orca_master.tasks.model import Task, TaskState
from orca_master.tasks.wire import MOST_LINE, MOST_LINES, observed
from orca_proto import worker_pb2 as pb


def ended(state: TaskState = TaskState.EXITED, **fields: object) -> Task:
    task = a_task(1, state)
    return replace(task, observed=replace(task.observed, **fields))


@pytest.mark.parametrize(
    ("code", "name"),
    [(137, "SIGKILL"), (143, "SIGTERM"), (139, "SIGSEGV"), (128, None), (255, None), (3, None)],
)
def test_exit_codes_that_stand_for_a_signal(code: int, name: str | None) -> None:
    assert signal_name(code) == name


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (ended(exit_code=3), "exited with code 3"),
        (ended(exit_code=137), "was killed by SIGKILL (exit code 137)"),
        (ended(exit_code=137, oom_killed=True), "was killed: it used more memory than its limit"),
        (ended(exit_code=143, reason="liveness check tcp 80: x"), "liveness check tcp 80: x"),
        (ended(exit_code=1, last_lines=("a", "b")), "exited with code 1; it said last: a | b"),
        (ended(TaskState.FAILED, reason="image x not found"), "image x not found"),
    ],
)
def test_an_end_is_told_in_a_line(task: Task, words: str) -> None:
    assert describe_end(task) == words


def test_what_a_worker_says_of_an_end_is_bounded_and_harmless() -> None:
    status = pb.TaskStatus(
        id="t",
        state=pb.TASK_STATE_EXITED,
        probes="\x1b[2J" + "p" * 100_000,
        last_lines=["x" * 100_000 + "\n"] * 50 + ["\x1b]0;title\x07end\u202e"],
    )
    _, found = observed(status)
    assert len(found.last_lines) == MOST_LINES
    assert all(len(line) <= MOST_LINE for line in found.last_lines)
    assert found.last_lines[-1] == "]0;titleend"
    assert len(found.probes) <= 2000
    assert found.probes.startswith("[2Jp")
