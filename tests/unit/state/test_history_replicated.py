"""Three masters on a replicated log, in virtual time: each has the whole history in the end."""

import asyncio
import contextlib
import random
from collections.abc import Callable
from pathlib import Path

import msgspec

from orca_common.real import SystemDisk
from orca_master.errors import Trouble
from orca_master.state.history.keeper import History
from orca_master.state.raft.founding import lay
from orca_master.state.raft.log import RaftLog
from orca_master.state.raft.members import Configuration, Member
from orca_master.state.solo.folder import Identity
from orca_master.state.store import Store
from orca_master.state.table import Schema, Table
from sim.env import sim_env
from sim.raft.network import Port, Wires
from sim.virtual_time import run_virtual

NAMES = ("m1", "m2", "m3")


class Counter(msgspec.Struct, frozen=True):
    value: int


COUNTER = Table("counter", Counter, key=lambda _: ("counter",))


class Master:
    """Stopping is as sudden as a kill: nothing is flushed but what was."""

    def __init__(self, name: str, folder: Path, wires: Wires, all: "dict[str, Master]") -> None:
        self.name = name
        self._folder = folder
        self._wires = wires
        self._all = all
        self._work: asyncio.Future[None] | None = None
        self.fetches = 0

    async def start(self) -> None:
        env = sim_env(len(self.name), SystemDisk())
        self._port = Port(self._wires, self.name)
        folder = str(self._folder / "log")
        if not env.disk.exists(folder):
            members = tuple(Member(name, "sim:1", is_voter=True) for name in NAMES)
            await lay(
                env,
                folder,
                identity=Identity(cluster="c", member=self.name),
                configuration=Configuration(members=members),
                capture=(),
                first_term=0,
            )
        log = RaftLog(
            env,
            folder,
            cluster_id="c",
            node=self.name,
            network=self._port,
            snapshot_every_entries=20,
            kept_entries=5,
        )
        self.history = History(env, str(self._folder / "history.db"), sources=self._others)
        self.store = Store(env, log, Schema(COUNTER), self.history)
        await self.store.start()
        self._work = asyncio.ensure_future(self.store.run())

    async def stop(self) -> None:
        assert self._work is not None
        self._port.unplug()
        self._work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._work
        self._work = None
        await self.store.close()

    @property
    def is_up(self) -> bool:
        return self._work is not None

    def _others(self) -> list["Source"]:
        self.fetches += 1
        return [Source(other) for other in self._all.values() if other is not self and other.is_up]

    async def numbers(self) -> list[int]:
        events = []
        async for batch in self.history.events(0, self.store.state.history.version):
            events += batch
        return [event.decode(Counter).value for event in events]


class Source:
    def __init__(self, master: Master) -> None:
        self.name = master.name
        self.events = master.history.events


def count(tx) -> None:
    before = tx.get(COUNTER, "counter")
    after = Counter(before.value + 1 if before else 1)
    tx.put(COUNTER, after)
    tx.record("counted", f"{after.value}", after)


async def count_up(masters: dict[str, Master], times: int) -> None:
    for _ in range(times):
        while True:
            leader = next(
                (m for m in masters.values() if m.is_up and m.store.leadership.is_leader), None
            )
            if leader is not None:
                with contextlib.suppress(Trouble):
                    await leader.store.update(count)
                    break
            await asyncio.sleep(0.05)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.05)


async def three_lives(folder: Path) -> None:
    wires, masters = Wires(random.Random(1)), {}
    for name in NAMES:
        masters[name] = Master(name, folder / name, wires, masters)
    for master in masters.values():
        await master.start()
    await count_up(masters, 30)
    for name in NAMES:  # each is away for longer than the log is kept
        await masters[name].stop()
        await count_up(masters, 60)
        await masters[name].start()
        await count_up(masters, 3)
    for master in masters.values():
        await master.stop()
    for master in masters.values():
        await master.start()
    await count_up(masters, 3)
    stores = [master.store for master in masters.values()]
    await until(lambda: len({(s.state.version, s.state.history) for s in stores}) == 1)
    await until(lambda: all(master.history.is_whole for master in masters.values()))
    assert all(master.fetches > 0 for master in masters.values()), "a snapshot left out events"
    assert len({store.state.digest for store in stores}) == 1
    last = stores[0].state.get(COUNTER, "counter")
    assert last is not None
    assert last.value >= 30 + 3 * 63 + 3
    for master in masters.values():
        assert await master.numbers() == list(range(1, last.value + 1))
        await master.stop()


def test_masters_that_were_away_and_sent_a_snapshot_have_the_whole_history(tmp_path: Path) -> None:
    run_virtual(three_lives(tmp_path))
