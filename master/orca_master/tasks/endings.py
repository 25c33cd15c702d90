"""Why a task that is over is over, in words. Pure."""

import signal

from orca_master.tasks.model import Task, TaskState

KILLED_FROM = 128
"""Programs ended by signal N have the exit code 128 + N."""


def signal_name(exit_code: int) -> str | None:
    """The signal that an exit code stands for, or None."""
    try:
        return signal.Signals(exit_code - KILLED_FROM).name if exit_code > KILLED_FROM else None
    except ValueError:
        return None


def describe_end(task: Task) -> str:
    """In one line: the reason, and what the task printed last."""
    observed = task.observed
    lines = " | ".join(observed.last_lines)
    return f"{why(task)}; it said last: {lines}" if lines else why(task)


def why(task: Task) -> str:
    """In one line, without what it printed."""
    observed = task.observed
    if observed.reason:
        return observed.reason
    if observed.oom_killed:
        return "was killed: it used more memory than its limit"
    if observed.state is TaskState.EXITED and (name := signal_name(observed.exit_code)):
        return f"was killed by {name} (exit code {observed.exit_code})"
    return f"exited with code {observed.exit_code}"
