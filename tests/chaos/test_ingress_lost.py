"""A machine is gone from one moment to the next, with the replicas on it: what clients of another notice."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from chaos.masters import MasterProcess
from chaos.network import Network
from chaos.workers import WorkerProcess
from orca.client import Client
from traffic import a_server, ask, fetch, traffic

HOST = "app.example.com"
WORKERS = ("w1", "w2")
PORT = 80


@pytest.fixture
async def machines(tmp_path: Path, network_namespaces: None) -> AsyncIterator["Machines"]:
    with Network(("m1", *WORKERS)) as network:
        found = Machines(tmp_path, network)
        try:
            await found.start()
            yield found
        finally:
            found.stop()


class Machines:
    """A master and two workers, each on a machine of its own. `notes`: what replicas were asked."""

    def __init__(self, folder: Path, network: Network) -> None:
        self.network = network
        self.notes = folder / "notes"
        self.notes.mkdir()
        self.master = MasterProcess(
            folder, "m1", host=network.address("m1"), prefix=network.prefix("m1")
        )
        self.workers = [
            WorkerProcess(
                folder,
                name,
                *("--runtime", "process"),
                host=network.address(name),
                prefix=network.prefix(name),
            )
            for name in WORKERS
        ]
        self.door = network.address("w1")

    async def start(self) -> None:
        self.master.start()
        await self.master.until_serving()
        async with Client(self.master.api, self.master.token) as client:
            for worker in self.workers:
                worker.start([self.master.api], token=await client.join_token())
            async with asyncio.timeout(60):
                while await self._ready(client) < len(WORKERS):
                    await asyncio.sleep(0.05)
            env = {"BIND": "0.0.0.0", "NOTES": str(self.notes)}
            service = a_server("web", 6, domain=HOST, env=env)
            answer = await client.deploy([service])
            assert answer["deployed"] == ["web"], answer
            nodes = {task["node"] for task in (await client.status())[0]["tasks"]}
            assert nodes == set(WORKERS)
        async with asyncio.timeout(60):
            while not await self._answers():
                await asyncio.sleep(0.05)

    async def _ready(self, client: Client) -> int:
        nodes = (await client.cluster_info())["nodes"]
        return sum(node["state"] == "ready" for node in nodes)

    async def _answers(self) -> bool:
        with contextlib.suppress(OSError, EOFError):
            return (await fetch(PORT, HOST, at=self.door))[0] == 200
        return False

    def stop(self) -> None:
        self.network.heal()
        self.master.kill()
        for worker in self.workers:
            worker.kill()
            worker.clear()

    def asked(self) -> Counter[str]:
        """How often replicas have seen each request that may not be sent twice."""
        return Counter(
            line for path in self.notes.iterdir() for line in path.read_text().splitlines()
        )


@dataclass
class Posts:
    """`failed`: when, on the clock of `time.monotonic`."""

    count: int = 0
    failed: list[float] = field(default_factory=list)

    async def go_on(self, door: str) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                self.count += 1
                group.create_task(self._one(door, self.count))
                await asyncio.sleep(0.01)

    async def _one(self, door: str, number: int) -> None:
        """Without a body: the small server reads none."""
        reader, writer = await asyncio.open_connection(door, PORT)
        try:
            status, _ = await ask(reader, writer, HOST, method="POST", path=f"/{number}")
            if status != 200:
                self.failed.append(time.monotonic())
        finally:
            writer.close()


async def test_errors_end_and_only_what_does_no_harm_is_sent_twice(machines: Machines) -> None:
    """Of GETs none fails: what the lost machine had is asked of another replica. What may do harm fails at
    most while it is on its way there, and reaches no second replica."""
    posts = Posts()
    async with traffic([PORT], HOST, at=machines.door, kept=200, fresh=20) as seen:
        posting = asyncio.create_task(posts.go_on(machines.door))
        await asyncio.sleep(2)
        machines.network.unplug("w2")
        lost_at = time.monotonic()
        before = seen.count
        await asyncio.sleep(10)
        posting.cancel()
    assert seen.failures == []
    assert seen.count > before
    late = [at - lost_at for at in posts.failed]
    print(f"POSTs: {posts.count}, failed {len(late)}, the last after {max(late, default=0):.2f} s")
    assert max(late, default=0) < 8, late
    assert machines.asked().most_common(1)[0][1] == 1
