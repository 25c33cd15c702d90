"""Three masters are upgraded one after another, and one is taken back. FAULTS CO-34 is here.

The older schema is a synthetic one; the log, the network between the masters and the stores are real.
"""

import asyncio
import contextlib
import random
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from orca_master.errors import NeedsNewerMasters, Trouble
from orca_master.state.raft.founding import lay
from orca_master.state.raft.log import RaftLog
from orca_master.state.raft.members import Configuration, Member
from orca_master.state.solo.folder import Identity
from orca_master.state.store import Store
from orca_master.state.table import Schema, Table, View
from orca_master.state.transaction import Transaction
from orca_master.state.versions import OlderThanCluster, check_not_older
from sim.disk import SimDisk
from sim.env import sim_env
from sim.raft.network import Port, Wires
from sim.virtual_time import run_virtual

NAMES = ("m1", "m2", "m3")


class Lowest(msgspec.Struct, frozen=True):
    version: int


class OldService(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    replicas: int = 1


class NewService(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    replicas: int = 1
    labels: dict[str, str] = {}


class Route(msgspec.Struct, frozen=True, omit_defaults=True):
    host: str


LOWEST = Table("lowest", Lowest, key=lambda _: ("masters",))
OLD_SERVICES = Table("services", OldService, key=lambda s: (s.name,))
NEW_SERVICES = Table("services", NewService, key=lambda s: (s.name,), fields_since={"labels": 2})
ROUTES = Table("routes", Route, key=lambda r: (r.host,), since=2)


def lowest(view: View) -> int:
    row = view.get(LOWEST, "masters")
    return row.version if row is not None else 1


OLD = Schema(LOWEST, OLD_SERVICES, version=1, cluster_version=lowest)
NEW = Schema(LOWEST, NEW_SERVICES, ROUTES, version=2, cluster_version=lowest)


@dataclass
class Process:
    name: str
    wires: Wires
    disk: SimDisk
    schema: Schema = OLD
    work: "asyncio.Future[None] | None" = None
    boots: int = 0
    store: Store = field(init=False)

    async def start(self) -> None:
        """Raises OlderThanCluster."""
        self.boots += 1
        env = sim_env(100 * int(self.name[1]) + self.boots, self.disk)
        self.port = Port(self.wires, self.name)
        if not env.disk.exists("/raft"):
            members = tuple(Member(name, "sim:1", is_voter=True) for name in NAMES)
            await lay(
                env,
                "/raft",
                identity=Identity(cluster="c", member=self.name),
                configuration=Configuration(members=members),
                capture=(),
                first_term=0,
            )
        log = RaftLog(
            env,
            "/raft",
            cluster_id="c",
            node=self.name,
            network=self.port,
            snapshot_every_entries=20,
            kept_entries=5,
        )
        self.store = Store(env, log, self.schema)
        await self.store.start()
        self.work = asyncio.ensure_future(self.store.run())

    async def stop(self) -> None:
        assert self.work is not None
        self.port.unplug()
        self.work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.work
        self.work = None
        await self.store.close()

    async def restart_as(self, schema: Schema) -> None:
        await self.stop()
        self.schema = schema
        await self.start()


class Cluster:
    def __init__(self) -> None:
        wires = Wires(random.Random(5))
        self.all = {name: Process(name, wires, SimDisk()) for name in NAMES}

    async def leader(self, schema: Schema | None = None) -> Process:
        """One that leads; with this schema, if any, for which others may have to be hurried on."""
        async with asyncio.timeout(120):
            while True:
                for process in self.all.values():
                    if process.work is None or not process.store.leadership.is_leader:
                        continue
                    if schema in (None, process.schema):
                        return process
                    await process.restart_as(process.schema)
                await asyncio.sleep(0.05)

    async def update(self, fn: Any, *, on: Schema | None = None) -> Any:
        while True:
            leader = await self.leader(on)
            try:
                return await leader.store.update(fn)
            except Trouble:
                await asyncio.sleep(0.05)

    async def agree(self) -> None:
        async with asyncio.timeout(60):
            while len({p.store.state.digest for p in self.all.values()}) > 1:
                await asyncio.sleep(0.05)


def put(table: Table[Any], row: Any) -> Any:
    def change(tx: Transaction) -> None:
        tx.put(table, row)

    return change


async def upgraded_one_by_one() -> None:
    cluster = Cluster()
    for process in cluster.all.values():
        await process.start()
    await cluster.update(put(OLD_SERVICES, OldService("web", 1)))
    m1, m2, m3 = cluster.all.values()

    await m1.restart_as(NEW)
    labelled = NewService("web", 2, {"tier": "front"})
    await cluster.update(put(NEW_SERVICES, labelled), on=NEW)
    with pytest.raises(NeedsNewerMasters):
        await cluster.update(put(ROUTES, Route("a.example")), on=NEW)
    await cluster.agree()
    assert m2.store.state.get(OLD_SERVICES, "web") == OldService("web", 2)
    assert m1.store.state.get(NEW_SERVICES, "web") == NewService("web", 2), "too early for labels"

    await m1.restart_as(OLD)
    await m1.restart_as(NEW)
    await m2.restart_as(NEW)
    await m3.restart_as(NEW)
    await cluster.update(put(LOWEST, Lowest(2)))
    await cluster.update(put(NEW_SERVICES, labelled))
    await cluster.update(put(ROUTES, Route("a.example")))
    for number in range(30):
        await cluster.update(put(NEW_SERVICES, NewService(f"s{number}")))
    await cluster.agree()

    await m3.restart_as(OLD)
    async with asyncio.timeout(60):
        while m3.store.state.version < m1.store.state.version:
            await asyncio.sleep(0.05)
    with pytest.raises(OlderThanCluster, match="install the version"):
        check_not_older(m3.store.state)
    await m3.restart_as(NEW)
    await cluster.agree()
    assert m3.store.state.get(NEW_SERVICES, "web") == labelled
    assert m3.store.state.get(ROUTES, "a.example") == Route("a.example")
    for process in cluster.all.values():
        await process.stop()


def test_masters_are_upgraded_one_by_one_and_one_is_taken_back_too_late_co_34() -> None:
    run_virtual(upgraded_one_by_one())
