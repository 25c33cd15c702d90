"""A fenced replica while machines are cut off from each other: never two at once, and always one again.

Three masters and two workers on machines of their own. The replica holds a ledger on the clients' machine,
which every worker reaches whatever else is cut: only the lease can end it.
"""

import asyncio
import contextlib
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from chaos.masters import MasterProcess
from chaos.network import Network
from chaos.workers import WorkerProcess
from ledger import GUARD_SECONDS, PROGRAM, Ledger
from orca.client import Client
from orca.errors import OrcaError
from totals import Totals

MASTERS, WORKERS = ("m1", "m2", "m3"), ("w1", "w2")
FAULTS = 12


class Machines:
    """`fault` breaks something, `heal` mends everything."""

    def __init__(self, folder: Path, network: Network, seed: int) -> None:
        self.network = network
        self.chance = random.Random(seed)
        self.masters = {
            name: MasterProcess(
                folder, name, host=network.address(name), prefix=network.prefix(name)
            )
            for name in MASTERS
        }
        self.workers = {
            name: WorkerProcess(
                folder,
                name,
                *("--runtime", "process"),
                host=network.address(name),
                prefix=network.prefix(name),
            )
            for name in WORKERS
        }
        self._stopped: list[MasterProcess | WorkerProcess] = []

    @property
    def apis(self) -> list[str]:
        return [master.api for master in self.masters.values()]

    def client(self) -> Client:
        return Client(self.apis, self.masters["m1"].token)

    async def start(self) -> None:
        first, *others = self.masters.values()
        first.start()
        await first.until_serving()
        async with self.client() as client:
            for master in others:
                master.start(join=[first.api], token=await client.join_token(role="master"))
                await master.until_serving()
            for worker in self.workers.values():
                worker.start(self.apis, token=await client.join_token())
            await self.until_well(client)

    async def until_well(self, client: Client) -> None:
        async with asyncio.timeout(GUARD_SECONDS):
            while True:
                with contextlib.suppress(OrcaError):
                    nodes = (await client.cluster_info())["nodes"]
                    if [node["state"] for node in nodes] == ["ready"] * len(WORKERS):
                        return
                await asyncio.sleep(0.1)

    async def holder(self, client: Client) -> str:
        async with asyncio.timeout(GUARD_SECONDS):
            while True:
                with contextlib.suppress(OrcaError, IndexError):
                    (found,) = await client.status()
                    running = [t["node"] for t in found["tasks"] if t["state"] == "running"]
                    return str(running[0])
                await asyncio.sleep(0.1)

    async def leader(self, client: Client) -> str:
        async with asyncio.timeout(GUARD_SECONDS):
            while True:
                with contextlib.suppress(OrcaError, TypeError):
                    return str((await client.cluster_info())["leader"]["name"])
                await asyncio.sleep(0.1)

    async def fault(self, kind: str, client: Client) -> None:
        holder, leader = await self.holder(client), await self.leader(client)
        if "worker cut" in kind:
            self.network.isolate(holder)
        if "leader cut" in kind:
            self.network.isolate(leader)
        if "worker stopped" in kind:
            self._stop(self.workers[holder])
        if "leader stopped" in kind:
            self._stop(self.masters[leader])
        if "worker killed" in kind:
            self.workers[holder].kill()

    def _stop(self, process: MasterProcess | WorkerProcess) -> None:
        process.signal(signal.SIGSTOP)
        self._stopped.append(process)

    def heal(self) -> None:
        self.network.heal()
        for process in self._stopped:
            process.signal(signal.SIGCONT)
        self._stopped.clear()
        for worker in self.workers.values():
            if not worker.is_alive:
                worker.start(self.apis)

    def close(self) -> None:
        self.heal()
        for worker in self.workers.values():
            worker.kill()
            worker.clear()
        for master in self.masters.values():
            master.kill()


@asynccontextmanager
async def machines(folder: Path, network: Network, seed: int) -> AsyncIterator[Machines]:
    made = Machines(folder, network, seed)
    try:
        await made.start()
        yield made
    finally:
        made.close()


ENDS_IT = ("worker cut", "worker stopped", "worker killed", "worker cut, leader stopped")
"""The replica has to go elsewhere."""
MAY_END_IT = ("leader cut", "leader stopped", "worker cut, leader cut")


@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("network_namespaces")
async def test_a_fenced_replica_is_never_there_twice_whoever_is_cut_off_co_20(
    tmp_path: Path, one_seed: int | None, totals: Totals
) -> None:
    seed = one_seed or 1
    with Network((*MASTERS, *WORKERS)) as network:
        async with (
            Ledger().open() as ledger,
            machines(tmp_path, network, seed) as found,
            found.client() as client,
        ):
            program = [sys.executable, "-c", PROGRAM, network.host, str(ledger.port)]
            service = {"name": "ledger", "command": program, "fence": True}
            assert (await client.deploy([service]))["errors"] == []
            token = await ledger.next_after(0)
            for number in range(FAULTS):
                kinds = [*ENDS_IT, *MAY_END_IT]
                kind = kinds[number % len(kinds)]
                await found.fault(kind, client)
                if kind in ENDS_IT:
                    token = await ledger.next_after(token)
                else:
                    await asyncio.sleep(found.chance.uniform(5.0, 25.0))
                found.heal()
                await found.until_well(client)
                await found.holder(client)
                assert ledger.wrong == [], kind
                token = ledger.last
            totals(
                "a fenced replica on machines of their own", real_faults=FAULTS, starts=ledger.last
            )
