"""From a commit until requests go the new way, through the ingress of one node. Used by `bench/ingress.py`.

One client asks without pause on a connection that it keeps. A change's commit has the time that its event in
`GET /api/v1/events` has (`at`; the clock is the machine's own); it has arrived with the first answer that is
only given after it. So the way back of that answer is part of the time, and the wait for its turn among the
replicas.
"""

import asyncio
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from typing import Any

from orca import local
from orca.client import Client

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from engine import free_port
from traffic import HERE, a_server, ask

HOST = "app.example.com"
HANG_SECONDS = 60.0
STEPS = 11
"""Of a canary: the first has no requests, then ten changes."""
Answer = tuple[int, str]


@dataclass
class Heard:
    """Events, as they come."""

    events: list[dict[str, Any]] = field(default_factory=list)
    more: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def follow(self, client: Client) -> None:
        async with aclosing(client.events(service="web")) as events:
            async for event in events:
                async with self.more:
                    self.events.append(event)
                    self.more.notify_all()

    async def time_of(self, kind: str, after: int) -> float:
        """Of the first of this kind beyond so many events; Unix seconds."""
        async with self.more:
            while not (found := [e for e in self.events[after:] if e["kind"] == kind]):
                await self.more.wait()
            return float(found[0]["at"])


@dataclass
class Lab:
    client: Client
    port: int
    heard: Heard

    async def until(self, host: str, is_new: Callable[[Answer], bool]) -> float:
        """When the first such answer came; Unix seconds."""
        reader, writer = await asyncio.open_connection(HERE, self.port)
        try:
            while not is_new(await ask(reader, writer, host)):
                await asyncio.sleep(0)
            return time.time()
        finally:
            writer.close()

    async def took(
        self, change: Awaitable[Any], kind: str, is_new: Callable[[Answer], bool], host: str = HOST
    ) -> float:
        """Seconds from the commit, which is an event of this kind."""
        before = len(self.heard.events)
        async with asyncio.timeout(HANG_SECONDS), asyncio.TaskGroup() as group:
            arrival = group.create_task(self.until(host, is_new))
            commit = group.create_task(self.heard.time_of(kind, before))
            await change
        return arrival.result() - commit.result()

    async def wait_for(self, is_so: Callable[[dict[str, Any]], bool]) -> None:
        """Until the service's status is so."""
        async with asyncio.timeout(HANG_SECONDS):
            while not is_so((await self.client.status())[0]):
                await asyncio.sleep(0.05)

    async def answer(self) -> Answer:
        reader, writer = await asyncio.open_connection(HERE, self.port)
        try:
            return await ask(reader, writer, HOST)
        finally:
            writer.close()


@asynccontextmanager
async def a_lab() -> AsyncIterator[Lab]:
    folder = Path(tempfile.mkdtemp(prefix="orca-bench-"))
    try:
        cluster = await local.up(
            folder,
            workers=1,
            port=_ports(3),
            ingress_port=_ports(2),
            runtime="process",
            say=lambda _: None,
        )
        async with Client(cluster.api, cluster.token()) as client, asyncio.TaskGroup() as group:
            lab = Lab(client, cluster.ingress_port, Heard())
            following = group.create_task(lab.heard.follow(client))
            await client.deploy([web("1")])
            async with asyncio.timeout(HANG_SECONDS):
                while (await client.routes())["nodes"][0]["state"] != "serving":
                    await asyncio.sleep(0.05)
                await lab.until(HOST, lambda answer: answer[0] == 200)
            yield lab
            following.cancel()
    finally:
        local.down(folder, say=lambda _: None)
        rmtree(folder, ignore_errors=True)


def _ports(count: int) -> int:
    """The first of so many free ones in a row."""
    while True:
        first = free_port()
        with suppress(OSError), ExitStack() as stack:
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind((HERE, port))
            return first


def web(version: str, **more: Any) -> dict[str, Any]:
    """Without a delay before its stop signal, as nothing here is about replicas that leave."""
    service = a_server("web", 1, env={"VERSION": version}, domains=[HOST], stop_delay_seconds=0)
    return service | more


async def of_replicas(lab: Lab, repeats: int) -> list[float]:
    """One more is ready, again and again."""
    found = []
    for _ in range(repeats):
        _, first = await lab.answer()

        def is_another(answer: Answer, first: str = first) -> bool:
            return answer[0] == 200 and answer[1] != first

        found.append(await lab.took(lab.client.scale("web", 2), "replica.ready", is_another))
        await lab.client.scale("web", 1)
        await lab.wait_for(lambda service: len(service["tasks"]) == 1)
    return found


async def of_weights(lab: Lab, repeats: int) -> list[float]:
    """A canary's share goes from nothing to all and back."""
    found: list[float] = []
    steps = [{"weight": 100 * (n % 2), "pause": True} for n in range(STEPS)]
    deploy = {"strategy": "canary", "canary": {"steps": steps}}
    number = 1
    while len(found) < repeats:
        number += 1
        await lab.client.deploy([web(str(number), deploy=deploy)])
        await lab.wait_for(lambda service: _weight(service) == 0)
        for step in steps[1:]:

            def is_its(
                answer: Answer, version: str = f"{number} ", canary: bool = step["weight"] == 100
            ) -> bool:
                return answer[1].startswith(version) == canary

            change = lab.client.promote("web", step=True)
            found.append(await lab.took(change, "service.promote", is_its))
        await lab.client.rollback("web")
        await lab.wait_for(lambda service: _weight(service) is None)
        await lab.wait_for(lambda service: len(service["tasks"]) == 1)
    return found[:repeats]


def _weight(service: dict[str, Any]) -> int | None:
    rollout = service["rollout"]
    if rollout is None:
        return None
    return int(rollout["weight"]) if rollout["state"] == "paused" else -1


async def of_domains(lab: Lab, repeats: int) -> list[float]:
    """A service gets one more."""
    found, domains = [], [HOST]
    for number in range(repeats):
        domains.append(f"{number}.example.com")
        change = lab.client.deploy([web("1", domains=domains)], wait=False)
        found.append(
            await lab.took(
                change, "service.deploy", lambda answer: answer[0] == 200, host=domains[-1]
            )
        )
    return found


async def measure_changes(repeats: int) -> dict[str, list[float]]:
    """Seconds, by what was changed."""
    async with a_lab() as lab:
        return {
            "a replica is ready": await of_replicas(lab, repeats),
            "a canary's weight": await of_weights(lab, repeats),
            "a new domain": await of_domains(lab, repeats),
        }
