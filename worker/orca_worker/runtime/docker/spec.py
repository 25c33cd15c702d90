"""What Orca says and what the engine says, translated: TaskSpec in, Container out. Pure."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from orca_proto.worker_pb2 import Task, TaskSpec
from orca_worker.runtime.port import Container, Phase

PIDS_LIMIT = 4096
DROPPED_CAPABILITIES = ["NET_RAW", "MKNOD", "AUDIT_WRITE"]
LOG_CONFIG = {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}

# The engine's word for a process that is there, whatever it does at the moment.
_RUNNING_STATES = {"running", "paused", "restarting", "stopping"}
_CREATED_STATES = {"created", "configured", "initialized"}


def container_names(task: Task) -> tuple[str, str]:
    """The name for people and, should another container have it already, the unique one."""
    service = re.sub(r"[^a-zA-Z0-9_.-]", "-", task.service)
    stem = f"orca-{service}-{task.slot}"
    return f"{stem}-{task.id[:8]}", f"{stem}-{task.id}"


def create_config(
    spec: TaskSpec, labels: Mapping[str, str], *, init: bool, publish_address: str
) -> dict[str, Any]:
    """The body of the engine's create call."""
    env = dict(spec.env)
    port = spec.port or spec.host_port
    if port:
        env.setdefault("PORT", str(port))
    host: dict[str, Any] = {
        "PidsLimit": PIDS_LIMIT,
        "SecurityOpt": ["no-new-privileges"],
        "CapDrop": DROPPED_CAPABILITIES,
        "LogConfig": LOG_CONFIG,
        "RestartPolicy": {"Name": "no"},
    }
    if init:
        host["Init"] = True
    if spec.limits.memory_bytes:
        host["Memory"] = spec.limits.memory_bytes
        # Equal to Memory means no swap: a limit that swaps is a slow program, not a limit.
        host["MemorySwap"] = spec.limits.memory_bytes
    if spec.limits.cpu_millis:
        host["NanoCpus"] = spec.limits.cpu_millis * 1_000_000
    config: dict[str, Any] = {
        "Image": spec.image,
        "Env": [f"{key}={value}" for key, value in env.items()],
        "Labels": dict(labels),
        "Tty": False,
        "HostConfig": host,
    }
    if spec.command:
        config["Cmd"] = list(spec.command)
    if spec.user:
        config["User"] = spec.user
    if spec.workdir:
        config["WorkingDir"] = spec.workdir
    if port:
        address = "0.0.0.0" if spec.host_port else publish_address
        binding = {"HostIp": address, "HostPort": str(spec.host_port or "")}
        config["ExposedPorts"] = {f"{port}/tcp": {}}
        host["PortBindings"] = {f"{port}/tcp": [binding]}
    return config


def created(engine_id: str, task_id: str, labels: Mapping[str, str]) -> Container:
    """What a container is right after its creation, known without asking."""
    return Container(
        task=task_id,
        id=engine_id,
        phase=Phase.CREATED,
        exit_code=0,
        oom_killed=False,
        started_at=0.0,
        ended_at=0.0,
        host_port=0,
        labels=dict(labels),
    )


def from_inspect(answer: Mapping[str, Any]) -> Container:
    """The Container in the engine's answer to inspect.

    `oom_killed` is what the engine noticed: it may miss a kill that ends the container at once.
    """
    state = answer["State"]
    phase = phase_of(state["Status"])
    labels = orca_labels(answer["Config"].get("Labels"))
    ended = phase is Phase.EXITED
    return Container(
        task=labels.get("orca.task", ""),
        id=answer["Id"],
        phase=phase,
        exit_code=int(state.get("ExitCode") or 0) if ended else 0,
        oom_killed=bool(state.get("OOMKilled")),
        started_at=0.0 if phase is Phase.CREATED else unix_time(state.get("StartedAt") or ""),
        ended_at=unix_time(state.get("FinishedAt") or "") if ended else 0.0,
        host_port=_published(answer),
        labels=labels,
    )


def listed_port(entry: Mapping[str, Any]) -> int:
    """The published port in one entry of the engine's list."""
    return next((int(p["PublicPort"]) for p in entry.get("Ports") or () if "PublicPort" in p), 0)


def orca_labels(labels: Mapping[str, str] | None) -> dict[str, str]:
    """The identity labels; those that came with the image are not ours."""
    return {key: value for key, value in (labels or {}).items() if key.startswith("orca.")}


def phase_of(status: str) -> Phase:
    """The engine's word for a container's state as one of ours."""
    if status in _CREATED_STATES:
        return Phase.CREATED
    return Phase.RUNNING if status in _RUNNING_STATES else Phase.EXITED


def unix_time(text: str) -> float:
    """RFC 3339, as the engine writes it, to Unix seconds; its year 1 means never."""
    if not text or text.startswith("0001-"):
        return 0.0
    return datetime.fromisoformat(text).timestamp()


def _published(answer: Mapping[str, Any]) -> int:
    ports = (answer.get("NetworkSettings") or {}).get("Ports") or {}
    for bindings in ports.values():
        for binding in bindings or ():
            return int(binding["HostPort"])
    return 0
