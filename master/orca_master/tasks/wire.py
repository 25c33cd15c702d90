"""Rows to and from the messages of the worker protocol. Nothing else knows both.

Numbers that cannot be and texts without end stop here: what a worker says is kept by every master.
"""

import math
import re
from collections.abc import Iterable, Mapping

from orca_master.cluster.model import NodeFacts
from orca_master.cluster.presence import Used
from orca_master.errors import Forbidden
from orca_master.tasks.model import Observed, Probe, Task, TaskSpec, TaskState, Wanted
from orca_proto import worker_pb2 as pb

MOST_MEMORY_BYTES = 1 << 50
MOST_CPU_MILLIS = 10_000_000
MOST_STATUSES = 100_000
MOST_LABELS = 100
MOST_RUNTIMES = 10
MOST_DEVICES = 1000
MOST_TEXT = 300
MOST_REASON = 2000
MOST_LINES, MOST_LINE = 5, 200
MOST_SECONDS = 1e11
"""Of Unix time, some thousand years from now."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_WANTED = {Wanted.RUN: pb.WANTED_RUN, Wanted.STOP: pb.WANTED_STOP}


def facts(hello: pb.Hello) -> NodeFacts:
    """What the worker says of itself. Raises Forbidden for what cannot be."""
    used = used_of(hello.capacity)
    texts = [hello.name, hello.version, hello.address, hello.os, hello.architecture, hello.instance]
    texts += [*hello.runtimes, *hello.labels.keys(), *hello.labels.values(), *hello.devices]
    if used is None:
        raise Forbidden("the worker claims more memory or processors than any machine has")
    if len(hello.labels) > MOST_LABELS or len(hello.runtimes) > MOST_RUNTIMES:
        raise Forbidden(
            f"the worker has more than {MOST_LABELS} labels or {MOST_RUNTIMES} runtimes"
        )
    if len(hello.devices) > MOST_DEVICES:
        raise Forbidden(f"the worker tells of more than {MOST_DEVICES} devices")
    if any(len(text) > MOST_TEXT for text in texts):
        raise Forbidden(f"the worker says something of itself in more than {MOST_TEXT} characters")
    if len(hello.tasks) > MOST_STATUSES:
        raise Forbidden(f"the worker claims to have more than {MOST_STATUSES} tasks")
    return NodeFacts(
        version=hello.version,
        address=hello.address,
        os=hello.os,
        architecture=hello.architecture,
        runtimes=tuple(hello.runtimes),
        memory_bytes=used.memory_bytes,
        cpu_millis=used.cpu_millis,
        labels=dict(hello.labels),
        devices=tuple(hello.devices) if hello.tells_devices else None,
    )


def used_of(resources: pb.Resources) -> Used | None:
    """None: no machine has so much."""
    if resources.memory_bytes > MOST_MEMORY_BYTES or resources.cpu_millis > MOST_CPU_MILLIS:
        return None
    return Used(resources.memory_bytes, resources.cpu_millis)


def _time(seconds: float) -> float:
    return seconds if math.isfinite(seconds) and 0 <= seconds < MOST_SECONDS else 0.0


def observed(status: pb.TaskStatus) -> tuple[str, Observed]:
    """(task id, what was observed). A state that this master does not know reads as preparing."""
    known = {state.value for state in TaskState}
    state = TaskState(status.state) if status.state in known else TaskState.PREPARING
    return status.id, Observed(
        state=state,
        healthy=status.healthy,
        reason=status.reason[:MOST_REASON],
        exit_code=status.exit_code,
        oom_killed=status.oom_killed,
        started_at=_time(status.started_at),
        ended_at=_time(status.ended_at),
        host_port=status.host_port if status.host_port < 65536 else 0,
        container=status.container[:MOST_TEXT],
        probes=_printable(status.probes, MOST_REASON),
        last_lines=tuple(_printable(x, MOST_LINE) for x in status.last_lines[-MOST_LINES:]),
        image_id=_printable(status.image_id, MOST_TEXT),
        image_digest=status.image_digest if _DIGEST.fullmatch(status.image_digest) else "",
    )


def _printable(text: str, most: int) -> str:
    return "".join(c for c in text[:most] if c.isprintable())


def assignments(
    revision: pb.Revision, tasks: Iterable[Task], specs: Mapping[str, TaskSpec]
) -> pb.FromMaster:
    """A list without tasks says that it was confirmed: whoever makes it has seen to that."""
    listed = [_task(task) for task in tasks]
    return pb.FromMaster(
        assignments=pb.Assignments(
            revision=revision,
            tasks=listed,
            specs={hash: spec(each) for hash, each in specs.items()},
            confirmed_empty=not listed,
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
        was_ready=task.is_ready,
    )


def spec(spec: TaskSpec) -> pb.TaskSpec:
    """Without values of secrets."""
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
        stop_delay_seconds=spec.stop_delay_seconds,
        published=spec.published,
        pull_policy=spec.pull_policy,
        image_only=spec.image_only,
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
    if spec.startup is not None:
        message.startup.CopyFrom(_probe(spec.startup, spec.port))
    if spec.readiness is not None:
        message.readiness.CopyFrom(_probe(spec.readiness, spec.port))
    if spec.liveness is not None:
        message.liveness.CopyFrom(_probe(spec.liveness, spec.port))
    return message


def _probe(probe: Probe, port: int) -> pb.Probe:
    return pb.Probe(
        path=probe.path,
        port=probe.port or port,
        interval_seconds=probe.interval_seconds,
        timeout_seconds=probe.timeout_seconds,
        failure_threshold=probe.failure_threshold,
        success_threshold=probe.success_threshold,
        delay_seconds=probe.delay_seconds,
        tcp=probe.tcp,
        grpc=probe.grpc,
        service=probe.service,
        command=probe.command,
        headers=probe.headers,
    )
