"""Rows to and from the messages of the worker protocol. Nothing else knows both."""

from collections.abc import Iterable, Mapping

from orca_master.tasks.model import Observed, Task, TaskSpec, TaskState, Wanted
from orca_proto import worker_pb2 as pb

_WANTED = {Wanted.RUN: pb.WANTED_RUN, Wanted.STOP: pb.WANTED_STOP}


def observed(status: pb.TaskStatus) -> tuple[str, Observed]:
    """(task id, what was observed). A state that this master does not know reads as preparing."""
    known = {state.value for state in TaskState}
    state = TaskState(status.state) if status.state in known else TaskState.PREPARING
    return status.id, Observed(
        state=state,
        healthy=status.healthy,
        reason=status.reason,
        exit_code=status.exit_code,
        oom_killed=status.oom_killed,
        started_at=status.started_at,
        ended_at=status.ended_at,
        host_port=status.host_port,
        container=status.container,
    )


def assignments(
    revision: pb.Revision, tasks: Iterable[Task], specs: Mapping[str, TaskSpec]
) -> pb.FromMaster:
    return pb.FromMaster(
        assignments=pb.Assignments(
            revision=revision,
            tasks=[_task(task) for task in tasks],
            specs={hash: _spec(spec) for hash, spec in specs.items()},
        )
    )


def _task(task: Task) -> pb.Task:
    return pb.Task(
        id=task.id,
        project=task.project,
        service=task.name,
        revision=task.revision,
        slot=task.slot,
        spec_hash=task.spec,
        wanted=_WANTED[task.wanted],
        fencing_token=task.fencing_token,
        has_ended=task.observed.state.is_over,
    )


def _spec(spec: TaskSpec) -> pb.TaskSpec:
    container = spec.container
    message = pb.TaskSpec(
        runtime=spec.runtime,
        image=spec.image,
        command=spec.command,
        env=spec.env,
        limits=pb.Resources(memory_bytes=spec.memory_bytes, cpu_millis=spec.cpu_millis),
        port=spec.port,
        host_port=spec.host_port,
        stop_grace_seconds=spec.stop_grace_seconds,
        pull_policy=spec.pull_policy,
        user=spec.user,
        workdir=spec.workdir,
        stop_signal=spec.stop_signal,
        log_bytes=spec.log_bytes,
        log_files=spec.log_files,
        entrypoint=container.entrypoint,
        devices=[pb.Device(path=d.path, permissions=d.permissions) for d in container.devices],
        mounts=[
            pb.Mount(source=m.source, target=m.target, read_only=m.read_only)
            for m in container.mounts
        ],
        volumes=[
            pb.Volume(name=v.name, target=v.target, read_only=v.read_only)
            for v in container.volumes
        ],
        aliases=container.aliases,
        security=container.security,
    )
    if spec.health is not None:
        message.health.CopyFrom(
            pb.HealthCheck(
                path=spec.health.path,
                port=spec.port,
                interval_seconds=spec.health.interval_seconds,
                timeout_seconds=spec.health.timeout_seconds,
                failure_threshold=spec.health.failure_threshold,
            )
        )
    return message
