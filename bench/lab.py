"""What the benchmarks run on: a private container engine, a real Orca cluster, and Docker Swarm.

The engine is a `dockerd` of our own with its own folder, socket and network namespace, so nothing
here meets the machine's own engine. Whatever is started is stopped, by process id, and removed.
Needs root, dockerd, ip, nsenter, iptables and a static busybox.
"""

import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from types import FrameType

from orca import local
from orca.client import Client

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from engine import free_port
from own_engine import (
    GONE_SECONDS,
    IMAGE,
    PrivateEngine,
    until,
)
from own_engine import POLL_SECONDS as POLL_SECONDS

PORT = 8080
NEEDED = ("dockerd", "ip", "nsenter", "iptables", "busybox")


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


@contextmanager
def private_engine(namespace: str | None = None) -> Iterator[PrivateEngine]:
    """In this network namespace, which exists, or in one of its own."""
    check_machine()
    folder = Path(tempfile.mkdtemp(prefix="orca-bench-"))
    own = f"orca-bench-{os.getpid()}"
    engine = PrivateEngine(folder, namespace or own, exists=namespace is not None)
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
