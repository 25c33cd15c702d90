"""Changes that no client notices: a rolling update and a drain, while all that is ready is asked.

A client looks at the status and asks each replica that is shown as ready, one request after the other. It
may be as late as the service's stop delay: what it asks until then must be answered whole. What it asks
later, because the machine stood still, says nothing of the cluster.
"""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from integration.conftest import RealCluster, running
from orca.client import Client

STOP_DELAY_SECONDS = 5.0
LOOK_SECONDS = 0.02
PAUSE_SECONDS = 0.03
ANSWER = b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nanswer"
SERVER = f"""
import os, signal, socket, threading, time
listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])), backlog=100)
def leave(number, frame):
    listener.close()
    raise SystemExit(0)
signal.signal(signal.SIGTERM, leave)
def answer(connection):
    with connection:
        connection.recv(65536)
        time.sleep(0.02)
        connection.sendall({ANSWER!r})
while True:
    threading.Thread(target=answer, args=(listener.accept()[0],)).start()
"""
"""It finishes what it has begun, and closes its port at the stop signal, as servers do."""


def a_server(name: str, replicas: int, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "command": [sys.executable, "-S", "-c", SERVER],
        "port": 8080,
        "health": "/",
        "replicas": replicas,
        "stop_delay_seconds": STOP_DELAY_SECONDS,
        **more,
    }


@dataclass
class Clients:
    """`least`: of each service, the fewest that were ready; `answered`: requests by the replica's task."""

    least: dict[str, int] = field(default_factory=dict)
    answered: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    late: int = 0
    _looked_at: float = 0.0
    _ready: dict[str, str] = field(default_factory=dict)

    async def follow(self, client: Client, group: asyncio.TaskGroup) -> None:
        while True:
            looked_at = time.monotonic()
            services = await client.status()
            known = self._ready
            self._looked_at, self._ready = looked_at, {}
            for service in services:
                name, ready = service["name"], service["running_replicas"]
                self.least[name] = min(self.least.get(name, ready), ready)
                for task in service["tasks"]:
                    if task["state"] == "running" and task["healthy"]:
                        self._ready[task["id"]] = task["address"]
            for new in self._ready.keys() - known.keys():
                group.create_task(self._ask(new, self._ready[new]))
            await asyncio.sleep(LOOK_SECONDS)

    async def _ask(self, task: str, address: str) -> None:
        host, _, port = address.rpartition(":")
        while task in self._ready:
            answered_until = self._looked_at + STOP_DELAY_SECONDS
            try:
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(b"GET / HTTP/1.0\r\n\r\n")
                found = await reader.read()
                writer.close()
            except OSError as error:
                found = repr(error).encode()
            if found == ANSWER:
                self.answered[task] += 1
            elif time.monotonic() < answered_until:
                self.failed.append(f"{task}: {found.decode()}")
            else:
                self.late += 1
            await asyncio.sleep(PAUSE_SECONDS)


@asynccontextmanager
async def asked(cluster: RealCluster) -> AsyncIterator[Clients]:
    """All that is ready is asked meanwhile. In the end: nothing failed, and each that is ready answers."""
    clients = Clients()
    async with cluster.client() as client, asyncio.TaskGroup() as group:
        following = group.create_task(clients.follow(client, group))
        yield clients
        before = Counter(clients.answered)
        async with asyncio.timeout(60):
            while any(clients.answered[task] == before[task] for task in clients._ready):
                await asyncio.sleep(LOOK_SECONDS)
        following.cancel()
        clients._ready = {}
    assert clients.failed == [], f"of {clients.answered.total()} requests"


async def tasks_of(cluster: RealCluster, *names: str) -> set[str]:
    return {task["id"] for name in names for task in (await cluster.service(name))["tasks"]}


async def test_peers_a_rolling_update_of_ten_refuses_no_client(tmp_path: Path) -> None:
    """moby#38841, caprover#191: requests went on to what was shutting down, and failed."""
    async with running(tmp_path / "orca", "process", 1) as cluster, cluster.client() as client:
        assert (await client.deploy([a_server("web", 10)]))["errors"] == []
        old = await tasks_of(cluster, "web")
        async with asked(cluster) as clients:
            answer = await client.deploy([a_server("web", 10, env={"VERSION": "2"})])
            assert answer["errors"] == []
            assert answer["outcomes"][0]["state"] == "running"
            async with asyncio.timeout(60):  # also what leaves has left
                while old & await tasks_of(cluster, "web"):
                    await asyncio.sleep(LOOK_SECONDS)
        new = await tasks_of(cluster, "web")
        assert len(new) == 10
        assert clients.answered.keys() >= new
        assert len(clients.answered.keys() & old) > 5, "those that a client saw before they left"
        assert clients.least == {"web": 10}


async def test_peers_a_drain_of_ten_replicas_refuses_no_client(tmp_path: Path) -> None:
    """Three services stay at their numbers, and whoever asks them is answered (PEERS 1.4, "Drain")."""
    wanted = {"a": 4, "b": 3, "c": 3}
    async with running(tmp_path / "orca", "process", 1) as cluster, cluster.client() as client:
        services = [a_server(name, replicas) for name, replicas in wanted.items()]
        assert (await client.deploy(services))["errors"] == []
        old = await tasks_of(cluster, *wanted)
        cluster.workers = 2
        await cluster.up()
        async with asked(cluster) as clients:
            await client.drain("worker-1")
            async with asyncio.timeout(60):
                while old & await tasks_of(cluster, *wanted):
                    await asyncio.sleep(LOOK_SECONDS)
        info = await client.cluster_info()
        assert {node["name"]: node["tasks"] for node in info["nodes"]} == {
            "worker-1": 0,
            "worker-2": 10,
        }
        assert clients.answered.keys() >= await tasks_of(cluster, *wanted)
        assert clients.least == wanted
