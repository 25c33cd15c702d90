"""What the benchmarks run on: a private container engine, a real Orca cluster, and Docker Swarm.

The engine is a `dockerd` of our own with its own folder, socket and network namespace, so nothing
here meets the machine's own engine. Whatever is started is stopped, by process id, and removed.
Needs root, dockerd, ip, nsenter, iptables and a static busybox.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import docker
import psutil

from orca import local
from orca.client import Client

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from engine import build_image, free_port

IMAGE = "127.0.0.1:1/orca-bench:1"
"""Nobody listens on that port: Swarm, which asks the registry for every task, is refused at once
and uses the local image. Any other name would cost it seconds."""

PORT = 8080
NEEDED = ("dockerd", "ip", "nsenter", "iptables", "busybox")
START_SECONDS = 30.0
STOP_SECONDS = 20.0
GONE_SECONDS = 120.0
POLL_SECONDS = 0.01


def check_machine() -> None:
    """Leave with the reason when this machine cannot run the benchmark."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if os.geteuid() != 0 or missing:
        sys.exit(
            f"this benchmark needs root and {', '.join(NEEDED)} (missing: {missing or 'root'})"
        )


def clean_up_on_signals() -> None:
    """SIGTERM ends like Control-C, so that every `finally` runs."""

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)


def until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(POLL_SECONDS)


class PrivateEngine:
    """A running dockerd in a network namespace, a new one unless it `exists`. `client` is a low-level
    SDK client of it."""

    def __init__(self, folder: Path, namespace: str, *, exists: bool = False) -> None:
        self._folder = folder
        self._namespace = namespace
        self._has_own_namespace = not exists
        self._daemon: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{folder}/docker.sock"
        self.client: docker.APIClient

    def start(self) -> None:
        in_namespace = ["nsenter", f"--net=/run/netns/{self._namespace}"]
        if self._has_own_namespace:
            subprocess.run(["ip", "netns", "add", self._namespace], check=True)
        # Not `ip netns exec`: that would hide the control groups from the engine.
        subprocess.run([*in_namespace, "ip", "link", "set", "lo", "up"], check=True)
        command = [
            *in_namespace,
            *("dockerd", "--data-root", f"{self._folder}/data"),
            *("--exec-root", f"{self._folder}/run", "--pidfile", f"{self._folder}/pid"),
            *("-H", self.url),
        ]
        with (self._folder / "log").open("wb") as log:
            self._daemon = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        until(self._answers, START_SECONDS, "start the private engine")
        if not self.client.images(IMAGE):
            build_image(self.client, IMAGE)

    def die(self) -> None:
        """SIGKILL for the engine and all that runs in it, as when the machine loses its power."""
        assert self._daemon is not None
        doomed = [*self.daemons(), *self._left_behind()]
        for process in doomed:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._daemon.wait()
        for name in ("pid", "docker.sock"):
            (self._folder / name).unlink(missing_ok=True)

    def stop(self) -> None:
        if self._daemon is not None:
            with suppress(Exception):
                self.remove_containers()
            self._daemon.terminate()
            try:
                self._daemon.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._daemon.kill()
                self._daemon.wait()
        for process in self._left_behind():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        mounted = [
            line.split()[1]
            for line in Path("/proc/self/mounts").read_text().splitlines()
            if line.split()[1].startswith(f"{self._folder}/")
        ]
        for path in sorted(mounted, reverse=True):
            subprocess.run(["umount", "-l", path], check=False)
        if self._has_own_namespace:
            subprocess.run(["ip", "netns", "del", self._namespace], check=False)

    def daemons(self) -> list[psutil.Process]:
        """dockerd and its containerd, without what runs on behalf of containers."""
        pid = int((self._folder / "pid").read_text())
        dockerd = psutil.Process(pid)
        return [dockerd, *(p for p in dockerd.children() if p.name() == "containerd")]

    def containers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.client.containers(all=True)
        return found

    def remove_containers(self) -> None:
        for container in self.containers():
            with suppress(docker.errors.APIError):
                self.client.remove_container(container["Id"], force=True, v=True)

    def until_empty(self) -> None:
        until(lambda: not self.containers(), GONE_SECONDS, "remove the containers")

    def _answers(self) -> bool:
        assert self._daemon is not None
        if self._daemon.poll() is not None:
            raise RuntimeError(f"dockerd does not start: {(self._folder / 'log').read_text()}")
        try:
            self.client = docker.APIClient(base_url=self.url, version="auto", timeout=120)
        except docker.errors.DockerException:
            return False
        return True

    def _left_behind(self) -> Iterator[psutil.Process]:
        """Shims outlive their engine, and so do the containers under them."""
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if f"{self._folder}/run/" in " ".join(process.cmdline()):
                    yield from process.children(recursive=True)
                    yield process


@contextmanager
def private_engine() -> Iterator[PrivateEngine]:
    check_machine()
    folder = Path(tempfile.mkdtemp(prefix="orca-bench-"))
    engine = PrivateEngine(folder, f"orca-bench-{os.getpid()}")
    try:
        engine.start()
        yield engine
    finally:
        engine.stop()
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def orca_cluster(engine: PrivateEngine) -> AsyncIterator[tuple[Client, local.Cluster]]:
    """One master and one worker on the engine, started as `orca up` does."""
    folder = Path(tempfile.mkdtemp(prefix="orca-bench-cluster-"))
    before = os.environ.get("DOCKER_HOST")
    os.environ["DOCKER_HOST"] = engine.url
    try:
        cluster = await local.up(
            folder, workers=1, port=_three_ports(), runtime="docker", say=lambda _: None
        )
        async with Client(cluster.api[0], cluster.token()) as client:
            yield client, cluster
    except Exception:
        for log in sorted(folder.glob("*.log")):
            print(f"--- {log.name}", *log.read_text().splitlines()[-40:], sep="\n", file=sys.stderr)
        raise
    finally:
        local.down(folder, say=lambda _: None)
        shutil.rmtree(folder, ignore_errors=True)
        if before is None:
            del os.environ["DOCKER_HOST"]
        else:
            os.environ["DOCKER_HOST"] = before


@contextmanager
def swarm(engine: PrivateEngine) -> Iterator["Swarm"]:
    """The engine as a Swarm of one manager, which is its worker too."""
    engine.client.init_swarm(advertise_addr="127.0.0.1", listen_addr="127.0.0.1:2377")
    try:
        yield Swarm(engine)
    finally:
        engine.client.leave_swarm(force=True)


class Swarm:
    """Services of the same image, limit and port as Orca's and the floor's."""

    def __init__(self, engine: PrivateEngine) -> None:
        self._engine = engine

    def create(self, name: str, replicas: int, *, memory_bytes: int) -> str:
        """The id of the new service. Ports are the host's own: as Orca's, without a mesh."""
        body = {
            "Name": name,
            "TaskTemplate": {
                "ContainerSpec": {
                    "Image": IMAGE,
                    "Env": [f"PORT={PORT}"],
                    "Init": True,
                    "StopGracePeriod": 1_000_000_000,
                },
                "Resources": {"Limits": {"MemoryBytes": memory_bytes}},
                "LogDriver": {
                    "Name": "json-file",
                    "Options": {"max-size": "10m", "max-file": "3"},
                },
            },
            "Mode": {"Replicated": {"Replicas": replicas}},
            "EndpointSpec": {
                "Ports": [{"Protocol": "tcp", "TargetPort": PORT, "PublishMode": "host"}]
            },
        }
        client = self._engine.client
        answer = client._result(client._post_json(client._url("/services/create"), data=body), True)
        return str(answer["ID"])

    def until_running(self, service: str, replicas: int) -> None:
        filters = {"service": service}

        def is_running() -> bool:
            tasks = self._engine.client.tasks(filters)
            return sum(task["Status"]["State"] == "running" for task in tasks) >= replicas

        until(is_running, GONE_SECONDS, "run the Swarm service")

    def remove(self, service: str) -> None:
        self._engine.client.remove_service(service)
        self._engine.until_empty()


def _three_ports() -> int:
    """A free port whose two successors are free too: the master listens on all of them."""
    while True:
        port = free_port()
        with suppress(OSError), socket.socket() as second, socket.socket() as third:
            second.bind((local.HOST, port + 1))
            third.bind((local.HOST, port + 2))
            return port
