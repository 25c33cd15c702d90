"""How long no write is acknowledged when the leader of three masters is killed, and whether reads go on.

    python bench/failover.py [--kills 50] [--writers 4] [--folder DIR]

Three real masters on loopback, as `orca up` starts them. Writers ask random masters without pause;
measured is from SIGKILL of the leader to the first answer to a write that was begun after it. One
reader for each master asks for its own state (`consistency=stale`); told is the longest time in which
a master that lives did not answer one.
"""

import argparse
import asyncio
import contextlib
import itertools
import random
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from integration.conftest import RealCluster, running
from orca.errors import OrcaError

PAUSE_SECONDS = (0.3, 1.0)
ANSWER_SECONDS = 5.0
READ_EVERY_SECONDS = 0.01
NEAR = 100
"""So many entries are no more than what is under way."""


@dataclass
class Clients:
    """`writes` are (begun, acknowledged); `reads` are, for each master, when it answered (s)."""

    cluster: RealCluster
    writes: list[tuple[float, float]] = field(default_factory=list)
    reads: dict[str, list[float]] = field(default_factory=dict)
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    def session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {self.cluster.token}"},
            timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS),
        )

    async def write(self, writer: int) -> None:
        number = 0
        async with self.session() as http:
            while not self.stop.is_set():
                number += 1
                begun = time.monotonic()
                service = {"name": f"w{writer}", "command": ["true", str(number)], "replicas": 0}
                url = f"{random.choice(self.cluster.apis)}/api/v1/deploy?wait=false"
                body = {"services": [service]}
                key = {"Idempotency-Key": uuid.uuid4().hex}
                try:
                    async with http.post(url, json=body, headers=key) as answer:
                        if answer.status == 202:
                            self.writes.append((begun, time.monotonic()))
                            continue
                except (aiohttp.ClientError, OSError, TimeoutError):
                    pass
                await asyncio.sleep(0.01)

    async def read(self, api: str) -> None:
        answered = self.reads.setdefault(api, [])
        async with self.session() as http:
            while not self.stop.is_set():
                try:
                    async with http.get(f"{api}/api/v1/status?consistency=stale") as answer:
                        if answer.status == 200:
                            answered.append(time.monotonic())
                except (aiohttp.ClientError, OSError, TimeoutError):
                    pass
                await asyncio.sleep(READ_EVERY_SECONDS)


async def one_kill(clients: Clients) -> tuple[float, float]:
    """(seconds to the next acknowledged write, longest gap of stale reads on the others)."""
    cluster = clients.cluster
    await asyncio.sleep(random.uniform(*PAUSE_SECONDS))
    leader = await cluster.leader()
    living = [api for api in cluster.apis if api != cluster.api_of(leader)]
    killed = time.monotonic()
    await cluster.kill(leader)
    async with asyncio.timeout(30):
        while not (after := [done for begun, done in clients.writes if begun >= killed]):
            await asyncio.sleep(0.005)
    gap = max(longest_gap(clients.reads[api], killed, time.monotonic()) for api in living)
    await cluster.up()
    await until_all_follow(cluster)
    clients.writes.clear()
    return min(after) - killed, gap


async def until_all_follow(cluster: RealCluster) -> None:
    """Nobody is far behind, although writes go on."""
    async with asyncio.timeout(30), cluster.client() as client:
        while True:
            with contextlib.suppress(OrcaError):
                found = (await client.masters())["masters"]
                if all(master["connected"] and master["behind"] < NEAR for master in found):
                    return
            await asyncio.sleep(0.05)


def longest_gap(times: Sequence[float], start: float, end: float) -> float:
    inside = [start, *(t for t in times if start <= t <= end), end]
    return max(after - before for before, after in itertools.pairwise(inside))


async def measure(folder: Path, kills: int, writers: int) -> None:
    times: list[float] = []
    gaps: list[float] = []
    async with running(folder / "orca", "process", 0, masters=3) as cluster:
        clients = Clients(cluster)
        async with asyncio.TaskGroup() as group:
            for writer in range(writers):
                group.create_task(clients.write(writer))
            for api in cluster.apis:
                group.create_task(clients.read(api))
            for number in range(1, kills + 1):
                took, gap = await one_kill(clients)
                times.append(took)
                gaps.append(gap)
                print(f"kill {number}: next write {took:.2f} s, stale reads paused {gap:.2f} s")
            clients.stop.set()
    print(
        f"{kills} kills of the leader, {writers} writers: next acknowledged write"
        f" p50 {statistics.median(times):.2f} s, worst {max(times):.2f} s;"
        f" stale reads on the others paused for at most {max(gaps):.2f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        asyncio.run(measure(Path(folder), options.kills, options.writers))


if __name__ == "__main__":
    main()
