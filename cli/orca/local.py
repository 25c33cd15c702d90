"""A real cluster on one machine: `orca up` starts masters and workers as processes on loopback.

Everything is in one folder: `cluster.json` says what runs and how to reach it, each daemon has a
folder and a log of its own. Starting again on the same folder brings the same cluster back.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from orca.client import Client
from orca.errors import OrcaError

START_SECONDS = 30.0
STOP_SECONDS = 15.0
COME_BACK_SECONDS = 15.0
PORT_SECONDS = 3.0
HOST = "127.0.0.1"
INGRESS_OFFSET = 100


class CannotStart(Exception):
    """The text says which part did not start and what its log says last."""


@dataclass(slots=True)
class Process:
    """One daemon. `started` (Unix seconds, from the kernel) tells it from a later one of its pid."""

    role: str
    name: str
    pid: int
    started: float
    log: str
    api: str | None = None
    grpc: str | None = None
    raft: str | None = None

    def is_alive(self) -> bool:
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < 1.0
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


@dataclass(slots=True)
class Cluster:
    """What `cluster.json` holds."""

    api: list[str]
    token_file: str
    port: int
    runtime: str
    processes: list[Process] = field(default_factory=list)
    master_flags: list[str] = field(default_factory=list)
    """More of what each master is started with."""
    ingress_port: int = 0
    """Of the first worker's ingress, for HTTP; the next is for HTTPS, then those of the others."""

    def __post_init__(self) -> None:
        self.ingress_port = self.ingress_port or self.port + INGRESS_OFFSET

    def token(self) -> str:
        return Path(self.token_file).read_text().strip()


def load(folder: Path) -> Cluster | None:
    """The cluster of this folder, or None. Raises CannotStart when the file is damaged."""
    file = folder / "cluster.json"
    if not file.exists():
        return None
    try:
        raw: dict[str, Any] = json.loads(file.read_text())
        processes = [Process(**process) for process in raw.pop("processes")]
        return Cluster(**raw, processes=processes)
    except (ValueError, TypeError, KeyError) as error:
        raise CannotStart(
            f"{file} is damaged ({error}): remove it and run `orca up` again"
        ) from error


def save(folder: Path, cluster: Cluster) -> None:
    temporary = folder / "cluster.json.tmp"
    temporary.write_text(json.dumps(asdict(cluster), indent=2) + "\n")
    temporary.rename(folder / "cluster.json")


async def up(
    folder: Path,
    *,
    workers: int,
    port: int,
    runtime: str,
    say: Callable[[str], None],
    masters: int = 1,
    master_flags: Sequence[str] = (),
    ingress_port: int = 0,
) -> Cluster:
    """Start what does not run yet and wait until all of it is ready; `folder` exists.

    More masters or workers than before are added; `master_flags` are those of the first time.
    Services that ran before get a while to come back. Raises CannotStart, TimeoutError.
    """
    cluster = load(folder)
    if cluster is None:
        token_file = str(folder / "admin.token")
        cluster = Cluster([], token_file, port, runtime, ingress_port=ingress_port)
        cluster.master_flags = list(master_flags)
    names = {process.name for process in cluster.processes if process.role == "worker"}
    wanted = max(workers, len(names))
    alive = {process.name: process for process in cluster.processes if process.is_alive()}
    cluster.processes = list(alive.values())
    async with asyncio.timeout(START_SECONDS + START_SECONDS * masters / 3):
        await _start_masters(folder, cluster, max(masters, len(cluster.api)), alive, say)
        async with Client(cluster.api, cluster.token()) as client:
            for number in range(1, wanted + 1):
                name = f"worker-{number}"
                if name not in alive:
                    cluster.processes.append(await _start_worker(folder, cluster, client, name))
                    save(folder, cluster)
                    say(f"{name}: starting")
            await _until_ready(client, cluster, wanted)
    save(folder, cluster)
    await _until_back(cluster)
    return cluster


def down(folder: Path, *, say: Callable[[str], None]) -> bool:
    """Stop the daemons and what runs on their nodes; state stays. False: nothing was running."""
    cluster = load(folder)
    if cluster is None:
        return False
    alive = [process for process in cluster.processes if process.is_alive()]
    for role in ("master", "worker"):  # masters first: what is then stopped is not replaced
        stopping = [process for process in alive if process.role == role]
        for process in stopping:
            os.kill(process.pid, signal.SIGTERM)
        for process in stopping:
            _wait_gone(process)
            say(f"{process.name}: stopped")
    for process in cluster.processes:
        if process.role == "worker":
            _clear(folder, process.name, cluster.runtime)
    return bool(alive)


async def _start_masters(
    folder: Path,
    cluster: Cluster,
    wanted: int,
    alive: Mapping[str, Process],
    say: Callable[[str], None],
) -> None:
    """Those of before together, for one alone may be no majority; then new ones, one by one."""
    numbers = range(1, wanted + 1)
    known = [n for n in numbers if (folder / f"master-{n}" / "identity.json").exists()]
    for number in known or [1]:
        if f"master-{number}" not in alive:
            await _start_master(folder, cluster, number, {}, say)
    await _until_healthy(cluster)
    _keep_token(folder / "master-1" / "admin.token", Path(cluster.token_file))
    new = [number for number in numbers if number not in (known or [1])]
    async with Client(cluster.api, cluster.token()) as client:
        for number in new:
            token = await client.join_token(role="master")
            joining = {"ORCA_MASTER_JOIN_TOKEN": token}
            await _start_master(folder, cluster, number, joining, say)
            await _until_voting(client, cluster, f"master-{number}")


async def _start_master(
    folder: Path,
    cluster: Cluster,
    number: int,
    environment: dict[str, str],
    say: Callable[[str], None],
) -> None:
    name = f"master-{number}"
    api, grpc, peers = master_ports(cluster.port, number)
    await _check_ports(api, grpc, peers)
    command = [
        *_python("orca_master"),
        *("--name", name, "--data-dir", str(folder / name), "--bind", HOST),
        *("--api-port", str(api), "--grpc-port", str(grpc), "--peer-port", str(peers)),
        *("--cluster-name", "local"),
        *cluster.master_flags,
    ]
    if environment:
        command += [part for other in cluster.api for part in ("--join", other)]
    process = _spawn(folder, "master", name, command, environment)
    process.api, process.grpc = f"http://{HOST}:{api}", f"{HOST}:{grpc}"
    process.raft = f"{HOST}:{peers}"
    cluster.processes.append(process)
    if process.api not in cluster.api:
        cluster.api.append(process.api)
    save(folder, cluster)
    say(f"{name}: {process.api}")


def master_ports(first: int, number: int) -> tuple[int, int, int]:
    """API, workers' and masters' port of the master with this number, from 1."""
    start = first + 3 * (number - 1)
    return start, start + 1, start + 2


def ingress_ports(first: int, number: int) -> tuple[int, int]:
    """HTTP and HTTPS port of the worker with this number, from 1."""
    start = first + 2 * (number - 1)
    return start, start + 1


def _keep_token(source: Path, target: Path) -> None:
    """A copy that outlives the first master, unless there is one."""
    if target.exists():
        return
    fd = os.open(target, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    try:
        os.write(fd, source.read_bytes())
    finally:
        os.close(fd)


async def _until_voting(client: Client, cluster: Cluster, name: str) -> None:
    while True:
        _check_alive(cluster)
        with contextlib.suppress(OrcaError):
            masters = (await client.masters())["masters"]
            if any(m["name"] == name and m["role"] in ("leader", "follower") for m in masters):
                return
        await asyncio.sleep(0.05)


async def _start_worker(folder: Path, cluster: Cluster, client: Client, name: str) -> Process:
    environment = {}
    if not (folder / name / "identity" / "node.json").exists():
        environment["ORCA_WORKER_JOIN_TOKEN"] = await client.join_token()
    command = [
        *_python("orca_worker"),
        *("--name", name, "--data-dir", str(folder / name)),
        *("--runtime", cluster.runtime, "--address", HOST),
    ]
    http, https = ingress_ports(cluster.ingress_port, int(name.removeprefix("worker-")))
    command += ["--ingress-http-port", str(http), "--ingress-https-port", str(https)]
    for api in cluster.api:
        command += ["--master", api]
    return _spawn(folder, "worker", name, command, environment)


def _python(module: str) -> list[str]:
    return [sys.executable, "-m", module]


def _spawn(
    folder: Path, role: str, name: str, command: list[str], environment: dict[str, str]
) -> Process:
    log = folder / f"{name}.log"
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("ORCA_MASTER_", "ORCA_WORKER_"))
    }
    flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND
    pid = os.posix_spawn(
        command[0],
        command,
        kept | environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    return Process(role, name, pid, psutil.Process(pid).create_time(), str(log))


async def _check_ports(*ports: int) -> None:
    """They must be free, or become so: a master that was just killed may still hold them."""
    until = time.monotonic() + PORT_SECONDS
    for port in ports:
        while not _is_free(port):
            if time.monotonic() > until:
                raise CannotStart(f"port {port} is in use: choose another with --port")
            await asyncio.sleep(0.05)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


async def _until_healthy(cluster: Cluster) -> None:
    """Some master answers, and a leader is known."""
    async with Client(cluster.api) as client:
        while True:
            _check_alive(cluster)
            with contextlib.suppress(OrcaError):
                if "no master leads" not in (await client.health()).get("reasons", []):
                    return
            await asyncio.sleep(0.05)


async def _until_ready(client: Client, cluster: Cluster, wanted: int) -> None:
    while True:
        info = await client.cluster_info()
        ready = [n for n in info["nodes"] if n["state"] == "ready" and n["connected"]]
        if len(ready) >= wanted:
            return
        _check_alive(cluster)
        await asyncio.sleep(0.05)


def _check_alive(cluster: Cluster) -> None:
    for process in cluster.processes:
        if not process.is_alive():
            raise CannotStart(f"{process.name} ended at once. {_last_words(process)}")


async def _until_back(cluster: Cluster) -> None:
    """Wait for services that were there before, but not for ever: one may be broken for good."""
    until = time.monotonic() + COME_BACK_SECONDS
    async with Client(cluster.api, cluster.token()) as client:
        while time.monotonic() < until:
            services = await client.status()
            if all(service["status"] in ("running", "stopped") for service in services):
                return
            await asyncio.sleep(0.1)


def _last_words(process: Process) -> str:
    lines = Path(process.log).read_text(errors="replace").strip().splitlines()
    return f"Its log ({process.log}) ends with: {lines[-1] if lines else 'nothing'}"


def _wait_gone(process: Process) -> None:
    until = time.monotonic() + STOP_SECONDS
    while process.is_alive() and time.monotonic() < until:
        time.sleep(0.02)
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)


def _clear(folder: Path, name: str, runtime: str) -> None:
    """Have the worker's own program stop and remove what still runs on its node."""
    if (folder / name / "identity" / "node.json").exists():
        command = [*_python("orca_worker"), "--name", name, "--data-dir", str(folder / name)]
        subprocess.run(
            [*command, "--runtime", runtime, "--clear", "--log-level", "error"],
            check=False,
            stdin=subprocess.DEVNULL,
        )
