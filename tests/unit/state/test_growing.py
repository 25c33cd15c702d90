"""One master's log becomes a log of several while it is written to, or stays what it was."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from orca_master.errors import Conflict, NotLeader
from orca_master.state.growing import AGAIN_SECONDS, GrowingLog
from orca_master.state.log import Machine
from orca_master.state.raft.convert import retire
from orca_master.state.raft.founding import found
from orca_master.state.raft.log import RaftLog
from orca_master.state.solo.log import SoloLog
from orca_master.state.store import Store
from orca_master.state.table import Schema, Table
from orca_master.state.transaction import Transaction
from sim.disk import SimDisk
from sim.env import sim_env
from sim.raft.network import Port, Wires
from sim.virtual_time import run_virtual


class Row(msgspec.Struct, frozen=True):
    number: int


ROWS = Table("rows", Row, key=lambda row: (str(row.number),))


class OneMaster:
    def __init__(self, disk: SimDisk) -> None:
        self.disk = disk
        self.env = sim_env(1, disk)
        if disk.exists("/raft"):
            self.log = GrowingLog(self.env, raft=self._raft())
        else:
            self.log = GrowingLog(self.env, solo=self._solo, convert=self._convert)
        self.store = Store(self.env, self.log, Schema(ROWS))

    def _solo(self) -> SoloLog:
        return SoloLog(self.env, "/log", cluster_id="c", member_name="m", snapshot_every_entries=10)

    def _raft(self) -> RaftLog:
        port = Port(Wires(random.Random(1)), "m")
        return RaftLog(self.env, "/raft", cluster_id="c", node="m", network=port)

    async def _convert(self, machine: Machine, *, term: int) -> RaftLog:
        await found(
            self.env,
            "/raft",
            cluster_id="c",
            node="m",
            address="m:1",
            capture=machine.capture(),
            first_term=term,
        )
        retire(self.env, "/log", cluster_id="c", node="m")
        return self._raft()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["OneMaster"]:
        await self.store.start()
        work = asyncio.ensure_future(self.store.run())
        try:
            yield self
        finally:
            work.cancel()
            await asyncio.wait({work})
            await self.store.close()

    async def write(self, first: int, last: int) -> None:
        for number in range(first, last + 1):

            def put(tx: Transaction, number: int = number) -> None:
                tx.put(ROWS, Row(number))

            while True:
                try:
                    await self.store.update(put)
                    break
                except NotLeader:  # as in any election: nothing was changed
                    await asyncio.sleep(0.01)

    def numbers(self) -> list[int]:
        return sorted(row.number for row in self.store.state.scan(ROWS))


def test_it_grows_under_writes_and_nothing_is_lost_or_refused() -> None:
    async def life() -> None:
        disk = SimDisk()
        async with OneMaster(disk).running() as master:
            await master.write(1, 25)
            before = master.store.leadership
            async with asyncio.TaskGroup() as group:
                group.create_task(master.write(26, 60))
                group.create_task(master.log.grown())
            after = master.store.leadership
            assert after.is_leader
            assert after.term > before.term, "orders of the new log are newer than the old one's"
            assert master.numbers() == list(range(1, 61))
        assert disk.list("/log") == ["lock"]
        async with OneMaster(disk).running() as again:
            assert again.log.raft is not None
            await again.write(61, 70)
            assert again.numbers() == list(range(1, 71))

    run_virtual(life())


def test_leadership_is_away_for_an_instant_and_comes_back() -> None:
    async def life() -> list[bool]:
        async with OneMaster(SimDisk()).running() as master:
            await master.write(1, 3)
            seen, found = master.store.leadership, []

            async def watch() -> None:
                nonlocal seen
                while True:
                    seen = await master.store.leadership_change(seen)
                    found.append(seen.is_leader)

            watching = asyncio.ensure_future(watch())
            await master.log.grown()
            await master.write(4, 4)
            watching.cancel()
            return found

    found = run_virtual(life())
    assert found[0] is False
    assert found[-1] is True


def test_on_a_full_disk_the_log_goes_on_as_it_was_and_grows_later() -> None:
    async def life() -> None:
        disk = SimDisk()
        async with OneMaster(disk).running() as master:
            await master.write(1, 25)
            disk.capacity = sum(map(len, disk.image().values())) + 600
            with pytest.raises(Conflict, match="cannot take others in"):
                await master.log.grown()
            assert master.log.raft is None
            assert master.numbers() == list(range(1, 26))
            disk.capacity = None
            await master.write(26, 30)
            with pytest.raises(Conflict):  # not again and again
                await master.log.grown()
            await asyncio.sleep(AGAIN_SECONDS + 1)
            await master.log.grown()
            await master.write(31, 35)
            assert master.numbers() == list(range(1, 36))

    run_virtual(life())
