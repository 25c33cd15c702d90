"""What Orca says and what the engine says, translated: TaskSpec in, Container out. Pure."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from orca_proto.worker_pb2 import Mount, Task, TaskSpec, Volume
from orca_worker.runtime.docker.networks import cluster_mark
from orca_worker.runtime.port import Container, Phase
from orca_worker.runtime.secret_files import IN_CONTAINER, VARIABLE

PIDS_LIMIT = 4096
# What is left to the default profile: enough for programs that begin as root and become another user.
KEPT_CAPABILITIES = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE",
                     "SETGID", "SETUID", "SYS_CHROOT"]  # fmt: skip
LOG_BYTES, LOG_FILES = 10 << 20, 3
KILLED_EXIT_CODE = 137
NOBODY = "65534:65534"
# The places that programs expect to be writable, in memory, where the rest is read-only.
RESTRICTED = "restricted"
SCRATCH = {"/tmp": "rw,nosuid,nodev,noexec,size=64m", "/run": "rw,nosuid,nodev,noexec,size=16m"}

# The engine's word for a process that is there, whatever it does at the moment.
_RUNNING_STATES = {"running", "paused", "restarting", "stopping"}
_CREATED_STATES = {"created", "configured", "initialized"}


def container_names(task: Task) -> tuple[str, str]:
    """The name for people and, should another container have it already, the unique one."""
    service = re.sub(r"[^a-zA-Z0-9_.-]", "-", task.service)
    stem = f"orca-{service}-{task.slot}"
    return f"{stem}-{task.id[:8]}", f"{stem}-{task.id}"


LOOPBACK = "127.0.0.1"
EVERYWHERE = "0.0.0.0"


def create_config(
    task: Task,
    spec: TaskSpec,
    labels: Mapping[str, str],
    *,
    sources: Sequence[str],
    network: str,
    init: bool,
    node_address: str,
    secrets: str = "",
) -> dict[str, Any]:
    """The body of the engine's create call. `sources` are those of the mounts, resolved; `secrets`: the
    folder with the files of secrets, if there are any."""
    env = {**spec.env, **spec.secret_env}
    if secrets:
        env[VARIABLE] = IN_CONTAINER
    port = spec.port or spec.host_port
    if port:
        env.setdefault("PORT", str(port))
    host = _host_config(spec, init=init)
    host["NetworkMode"] = network
    host["Mounts"] = [
        *(_bind(mount, source) for mount, source in zip(spec.mounts, sources, strict=True)),
        *(_volume(task, volume, labels) for volume in spec.volumes),
    ]
    if secrets:
        host["Mounts"].append(_bind(Mount(target=IN_CONTAINER, read_only=True), secrets))
    host["Devices"] = [
        {
            "PathOnHost": device.path,
            "PathInContainer": device.path,
            "CgroupPermissions": device.permissions or "rw",
        }
        for device in spec.devices
    ]
    config: dict[str, Any] = {
        "Image": spec.image,
        "Env": [f"{key}={value}" for key, value in env.items()],
        "Labels": dict(labels),
        "Tty": False,
        "HostConfig": host,
        "NetworkingConfig": {
            "EndpointsConfig": {network: {"Aliases": sorted({task.service, *spec.aliases})}}
        },
    }
    if spec.entrypoint:
        config["Entrypoint"] = list(spec.entrypoint)
    if spec.command:
        config["Cmd"] = list(spec.command)
    if spec.stop_signal:
        config["StopSignal"] = spec.stop_signal
    if spec.user or spec.security == RESTRICTED:
        config["User"] = spec.user or NOBODY
    if spec.workdir:
        config["WorkingDir"] = spec.workdir
    if port:
        open_at = node_address if spec.published else LOOPBACK
        address = EVERYWHERE if spec.host_port else open_at
        binding = {"HostIp": address, "HostPort": str(spec.host_port or "")}
        config["ExposedPorts"] = {f"{port}/tcp": {}}
        host["PortBindings"] = {f"{port}/tcp": [binding]}
    return config


def volume_name(task: Task, volume: str, labels: Mapping[str, str]) -> str:
    """A volume is its slot's: it does not depend on the number of replicas, revision or task."""
    mark = cluster_mark(labels.get("orca.cluster", ""))
    return f"orca-{mark}_{task.project}_{task.service}_{volume}_{task.slot}"


def _bind(mount: Mount, source: str) -> dict[str, Any]:
    return {
        "Type": "bind",
        "Source": source,
        "Target": mount.target,
        "ReadOnly": mount.read_only,
        "BindOptions": {"Propagation": "rprivate"},
    }


def _volume(task: Task, volume: Volume, labels: Mapping[str, str]) -> dict[str, Any]:
    owned = ("orca.cluster", "orca.project", "orca.service")
    return {
        "Type": "volume",
        "Source": volume_name(task, volume.name, labels),
        "Target": volume.target,
        "ReadOnly": volume.read_only,
        "VolumeOptions": {"Labels": {key: labels[key] for key in owned if key in labels}},
    }


def _host_config(spec: TaskSpec, *, init: bool) -> dict[str, Any]:
    """Limits, output and what is taken away, as the profile says."""
    size = spec.log_bytes or LOG_BYTES
    log = {"max-size": f"{size >> 10}k", "max-file": str(spec.log_files or LOG_FILES)}
    host: dict[str, Any] = {
        "PidsLimit": PIDS_LIMIT,
        "SecurityOpt": ["no-new-privileges"],
        "CapDrop": ["ALL"],
        "LogConfig": {"Type": "json-file", "Config": log},
        "RestartPolicy": {"Name": "no"},
    }
    if spec.security == RESTRICTED:
        host["ReadonlyRootfs"] = True
        given = {mount.target for mount in spec.mounts} | {each.target for each in spec.volumes}
        host["Tmpfs"] = {path: how for path, how in SCRATCH.items() if path not in given}
    else:
        host["CapAdd"] = KEPT_CAPABILITIES
    if init:
        host["Init"] = True
    if spec.limits.memory_bytes:
        host["Memory"] = spec.limits.memory_bytes
        # Equal to Memory means no swap: a limit that swaps is a slow program, not a limit.
        host["MemorySwap"] = spec.limits.memory_bytes
    if spec.limits.cpu_millis:
        host["NanoCpus"] = spec.limits.cpu_millis * 1_000_000
    return host


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
        host_port=0 if phase is Phase.CREATED else _published(answer),
        labels=labels,
        address=_address(answer) if phase is Phase.RUNNING else "",
        host_address=_published_at(answer),
        image="" if phase is Phase.CREATED else str(answer.get("Image") or ""),
    )


def may_have_lacked_memory(found: Container, answer: Mapping[str, Any]) -> bool:
    """Whether it ended as such a kill does, had a limit, and the engine has not said so itself."""
    limited = bool((answer.get("HostConfig") or {}).get("Memory"))
    killed = found.phase is Phase.EXITED and found.exit_code == KILLED_EXIT_CODE
    return limited and killed and not found.oom_killed


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


def _published_at(answer: Mapping[str, Any]) -> str:
    ports = (answer.get("NetworkSettings") or {}).get("Ports") or {}
    for bindings in ports.values():
        for binding in bindings or ():
            address = str(binding.get("HostIp") or EVERYWHERE)
            return LOOPBACK if address in (EVERYWHERE, "::") else address
    return LOOPBACK


def _address(answer: Mapping[str, Any]) -> str:
    """Where it is in its network; Podman tells that also of what has ended."""
    networks = (answer.get("NetworkSettings") or {}).get("Networks") or {}
    return next((str(each["IPAddress"]) for each in networks.values() if each["IPAddress"]), "")
