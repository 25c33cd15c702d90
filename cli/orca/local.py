"""A real cluster on one machine: `orca up` starts masters and workers as processes on loopback.

Everything is in one folder: `cluster.json` says what runs and how to reach it, each daemon has a
folder and a log of its own. Starting again on the same folder brings the same cluster back.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from orca.client import Client, OrcaError

START_SECONDS = 30.0
STOP_SECONDS = 15.0
COME_BACK_SECONDS = 15.0
PORT_SECONDS = 3.0
HOST = "127.0.0.1"


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
    folder: Path, *, workers: int, port: int, runtime: str, say: Callable[[str], None]
) -> Cluster:
    """Start what does not run yet and wait until all of it is ready; `folder` exists.

    Services that ran before get a while to come back. Raises CannotStart, TimeoutError.
    """
    cluster = load(folder)
    if cluster is None:
        cluster = Cluster(
            [f"http://{HOST}:{port}"], str(folder / "master-1/admin.token"), port, runtime
        )
    names = {process.name for process in cluster.processes if process.role == "worker"}
    wanted = max(workers, len(names))
    alive = {process.name: process for process in cluster.processes if process.is_alive()}
    cluster.processes = list(alive.values())
    if "master-1" not in alive:
        await _check_ports(cluster.port)
        cluster.processes.insert(0, _start_master(folder, cluster.port))
        save(folder, cluster)
        say(f"master-1: {cluster.api[0]}")
    async with asyncio.timeout(START_SECONDS):
        await _until_healthy(cluster)
        async with Client(cluster.api[0], cluster.token()) as client:
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


def _start_master(folder: Path, port: int) -> Process:
    name = "master-1"
    command = [
        *_python("orca_master"),
        *("--name", name, "--data-dir", str(folder / name), "--bind", HOST),
        *("--api-port", str(port), "--grpc-port", str(port + 1), "--cluster-name", "local"),
    ]
    process = _spawn(folder, "master", name, command, {})
    process.api = f"http://{HOST}:{port}"
    process.grpc = f"{HOST}:{port + 1}"
    return process


async def _start_worker(folder: Path, cluster: Cluster, client: Client, name: str) -> Process:
    environment = {}
    if not (folder / name / "identity" / "node.json").exists():
        environment["ORCA_WORKER_JOIN_TOKEN"] = await client.join_token()
    command = [
        *_python("orca_worker"),
        *("--name", name, "--data-dir", str(folder / name)),
        *("--master", cluster.api[0], "--runtime", cluster.runtime, "--address", HOST),
    ]
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


async def _check_ports(first: int) -> None:
    """Both ports must be free, or become so: a master that was just killed may still hold them."""
    until = time.monotonic() + PORT_SECONDS
    for port in range(first, first + 2):
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
    master = cluster.processes[0]
    async with Client(cluster.api[0]) as client:
        while True:
            if not master.is_alive():
                raise CannotStart(f"master-1 ended at once. {_last_words(master)}")
            try:
                await client.health()
                return
            except OrcaError:
                await asyncio.sleep(0.05)


async def _until_ready(client: Client, cluster: Cluster, wanted: int) -> None:
    while True:
        info = await client.cluster_info()
        ready = [n for n in info["nodes"] if n["state"] == "ready" and n["connected"]]
        if len(ready) >= wanted:
            return
        for process in cluster.processes:
            if not process.is_alive():
                raise CannotStart(f"{process.name} ended at once. {_last_words(process)}")
        await asyncio.sleep(0.05)


async def _until_back(cluster: Cluster) -> None:
    """Wait for services that were there before, but not for ever: one may be broken for good."""
    until = time.monotonic() + COME_BACK_SECONDS
    async with Client(cluster.api[0], cluster.token()) as client:
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
