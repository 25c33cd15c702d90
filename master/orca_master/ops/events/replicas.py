"""What happened to a replica, from its task's row before and after. Pure."""

from collections.abc import Iterator

from orca_master.ops.events.model import Detail, Happening
from orca_master.services.model import OWNER_PREFIX, key_of_owner
from orca_master.tasks.endings import signal_name, why
from orca_master.tasks.model import Task, TaskState, Wanted


def of_task(before: Task | None, after: Task | None, node: str, now: float) -> Iterator[Happening]:
    """In the order in which it happens to one replica. `node`: the name of its node."""
    task = after or before
    if task is None or not task.owner.startswith(OWNER_PREFIX):
        return
    for verb, text, details in _changes(before, after, node):
        tenant, project, service = key_of_owner(task.owner)
        known: dict[str, Detail] = {"task": task.id, "revision": task.revision}
        yield Happening(
            0,
            0,
            now,
            f"replica.{verb}",
            f"replica {task.slot} {text}",
            tenant=tenant,
            project=project,
            service=service,
            replica=task.slot,
            node=node,
            node_id=task.node,
            details=known | details,
        )


def _changes(
    before: Task | None, after: Task | None, node: str
) -> Iterator[tuple[str, str, dict[str, Detail]]]:
    if after is None:
        if before is not None:
            yield "gone", f"is gone from {node}" if node else "is not wanted any more", {}
        return
    seen, was = after.observed, before.observed if before else None
    if after.pending_reason and (before is None or before.pending_reason != after.pending_reason):
        yield "pending", f"is pending: {after.pending_reason}", {"reason": after.pending_reason}
    if after.node and (before is None or before.node != after.node):
        yield "placed", f"was placed on {node}", {}
    if after.wanted is Wanted.STOP and (before is None or before.wanted is not Wanted.STOP):
        yield "stopping", "is to stop", {}
    if seen.started_at and (was is None or was.started_at != seen.started_at):
        yield "started", f"started on {node}", {"started_at": int(seen.started_at)}
    was_ready = before is not None and before.is_ready
    if after.is_ready and not was_ready:
        port: dict[str, Detail] = {"host_port": seen.host_port} if seen.host_port else {}
        yield "ready", "is ready", port
    if was_ready and not after.is_ready:
        probes = f": {seen.probes}" if seen.probes and not seen.state.is_over else ""
        yield "unready", f"is not ready any more{probes}", {}
    if seen.state.is_over and (was is None or not was.state.is_over):
        yield _end(after)


def _end(task: Task) -> tuple[str, str, dict[str, Detail]]:
    if task.observed.state is TaskState.FAILED:
        return "failed", f"could not be started: {why(task)}", {"reason": why(task)}
    code, oom = task.observed.exit_code, task.observed.oom_killed
    signal = signal_name(code)
    details: dict[str, Detail] = {"exit_code": code, "oom_killed": oom, "reason": why(task)}
    return "exited", f"ended: {why(task)}", details | ({"signal": signal} if signal else {})
