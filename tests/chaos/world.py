"""Three real masters on machines of their own, with everything around them that can break."""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from chaos.masters import MasterProcess, stale_services
from chaos.network import Network
from chaos.registers import Registers, Violation
from chaos.shim import Shim
from orca.client import Client
from orca.errors import OrcaError

NAMES = ("m1", "m2", "m3")
DISK = "size=96m"
CLIENTS = 5
PROGRESS_SECONDS = 60.0


class World:
    """Each master in its namespace, with a small disk of its own and a shim in it."""

    def __init__(self, folder: Path, network: Network, library: Path, seed: int) -> None:
        self.network = network
        self.chance = random.Random(seed)
        self.masters: dict[str, MasterProcess] = {}
        self.shims: dict[str, Shim] = {}
        for name in NAMES:
            (folder / name).mkdir()
            _mount(folder / name)
            self.shims[name] = Shim(library, folder / f"{name}.control", folder / name)
            self.masters[name] = MasterProcess(
                folder,
                name,
                host=network.address(name),
                prefix=network.prefix(name),
                environment=self.shims[name].environment,
            )

    @property
    def apis(self) -> list[str]:
        return [master.api for master in self.masters.values()]

    async def start(self) -> None:
        first, *others = self.masters.values()
        first.start()
        await first.until_serving()
        self.token = first.token
        async with Client(first.api, self.token) as client:
            for master in others:
                master.start(join=[first.api], token=await client.join_token(role="master"))
                await self._until_voting(client, master)

    async def _until_voting(self, client: Client, master: MasterProcess) -> None:
        async with asyncio.timeout(90):
            while True:
                assert master.is_alive, master.said[-2000:]
                with contextlib.suppress(OrcaError):
                    found = (await client.masters())["masters"]
                    roles = {each["name"]: each["role"] for each in found}
                    if roles.get(master.name) in ("leader", "follower"):
                        return
                await asyncio.sleep(0.05)

    async def leader(self, seconds: float = 60.0) -> str:
        """Who leads, by what most masters say that can be reached by clients."""
        async with asyncio.timeout(seconds), self.http() as http:
            while True:
                for name, master in self.masters.items():
                    if (await self.role(http, master)) == "leader":
                        return name
                await asyncio.sleep(0.05)

    async def role(self, http: aiohttp.ClientSession, master: MasterProcess) -> str:
        """leader, follower (knows a leader), alone (knows none), or silent."""
        try:
            async with http.get(f"{master.api}/metrics") as answer:
                values = metrics(await answer.text())
        except (aiohttp.ClientError, OSError, TimeoutError):
            return "silent"
        if values["orca_raft_leader"]:
            return "leader"
        return "follower" if values["orca_raft_has_leader"] else "alone"

    async def term(self) -> int:
        """The greatest that any master has seen."""
        found = [0]
        async with self.http() as http:
            for master in self.masters.values():
                with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                    async with http.get(f"{master.api}/metrics") as answer:
                        found.append(int(metrics(await answer.text())["orca_raft_term"]))
        return max(found)

    def http(self, seconds: float = 2.0) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=aiohttp.ClientTimeout(total=seconds),
        )

    def others(self, name: str) -> list[str]:
        return [other for other in NAMES if other != name]

    async def heal(self) -> None:
        """Everything works again, and every master runs."""
        self.network.heal()
        for name, master in self.masters.items():
            self.shims[name].clear()
            (master.data / "ballast").unlink(missing_ok=True)
            master.signal(signal.SIGCONT)
            if not master.is_alive:
                master.start()

    async def until_all_agree(self, seconds: float = 90.0) -> list[dict[str, Any]]:
        """Every master's own state, which is the same."""
        found: list[Any] = []
        try:
            async with asyncio.timeout(seconds), self.http() as http:
                while True:
                    with contextlib.suppress(aiohttp.ClientError, OSError, AssertionError):
                        found = [await stale_services(http, api) for api in self.apis]
                        if all(other == found[0] for other in found):
                            return list(found[0])
                    await asyncio.sleep(0.1)
        except TimeoutError as error:
            raise Violation(f"the masters do not agree: {self.last_words()}") from error

    def last_words(self) -> dict[str, str]:
        return {name: master.said[-1500:] for name, master in self.masters.items()}

    def check_leaders(self) -> int:
        """At most one leader in each term, by the masters' logs; how many terms there were."""
        leaders: dict[int, set[str]] = defaultdict(set)
        for master in self.masters.values():
            for line in master.said.splitlines():
                if line.startswith("{") and '"leadership changed"' in line:
                    told = json.loads(line)
                    if told["leader"] is not None:
                        leaders[told["term"]].add(told["leader"])
        for term, who in leaders.items():
            if len(who) > 1:
                raise Violation(f"in term {term} all of these led: {sorted(who)}")
        return len(leaders)

    def close(self) -> None:
        for master in self.masters.values():
            master.kill()
        for master in self.masters.values():
            subprocess.run(["umount", "--lazy", str(master.data)], check=True)


class Load:
    """Clients at work; what stands in between is how long nothing was acknowledged."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.registers = Registers(world.apis, world.token, seed)

    async def progress(self, seconds: float = PROGRESS_SECONDS) -> float:
        """How long until two more writes are acknowledged. Raises Violation."""
        started, before = time.monotonic(), self.registers.acknowledged
        while self.registers.acknowledged < before + 2:
            if time.monotonic() - started > seconds:
                raise Violation(f"nothing is acknowledged: {self.world.last_words()}")
            await asyncio.sleep(0.02)
        return time.monotonic() - started

    async def finish(self) -> None:
        """Raises Violation when anything was lost, doubled or read in the wrong order."""
        self.registers.check(await self.world.until_all_agree())


@asynccontextmanager
async def loaded(world: World, seed: int) -> AsyncIterator[Load]:
    """Clients run meanwhile; afterwards everything is healed and checked."""
    load = Load(world, seed)
    async with asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            group.create_task(load.registers.run(number))
        await load.progress()
        yield load
        await world.heal()
        await load.progress()
        load.registers.stop()
    await load.finish()
    world.check_leaders()


@asynccontextmanager
async def a_world(folder: Path, library: Path, seed: int) -> AsyncIterator[World]:
    with Network(NAMES) as network:
        world = World(folder, network, library, seed)
        try:
            await world.start()
            yield world
        finally:
            world.close()


def metrics(text: str) -> dict[str, float]:
    """The plain values of a Prometheus text."""
    lines = (line.rpartition(" ") for line in text.splitlines() if line and line[0] != "#")
    return {name: float(value) for name, _, value in lines}


def _mount(folder: Path) -> None:
    command = ["mount", "-t", "tmpfs", "-o", f"{DISK},mode=0700", "orca", str(folder)]
    subprocess.run(command, check=True, env=dict(os.environ))
