"""One simulated master: the real log and the real store on a disk that outlives them."""

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import msgspec

from orca_common.env import Env
from orca_master.state.log import DamagedLog, Leadership, LogFailed, Machine, Restoring
from orca_master.state.raft import Member, RaftLog, Removed
from orca_master.state.raft.elections import Timing
from orca_master.state.raft.founding import lay
from orca_master.state.raft.members import Configuration
from orca_master.state.rows import State
from orca_master.state.solo.folder import Identity
from orca_master.state.store import Store
from orca_master.state.table import Schema, Table
from sim.disk import SimDisk
from sim.env import SimClock, SimRandom, sim_env
from sim.raft.network import Port, Wires

T = TypeVar("T")
E = TypeVar("E", bound=Exception)

CLUSTER = "simcluster"
FOLDER = "/raft"


class Register(msgspec.Struct, frozen=True):
    name: str
    value: int


class Items(msgspec.Struct, frozen=True):
    name: str
    tokens: list[str]


REGISTERS = Table("registers", Register, key=lambda row: (row.name,))
ITEMS = Table("items", Items, key=lambda row: (row.name,))
SCHEMA = Schema(REGISTERS, ITEMS)


class Crash(BaseException):
    """The machine stops here and now. Nobody can handle that."""


class Quartz(SimClock):
    """A clock that goes a little fast or slow, and during a slow sync goes on by itself."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self._rate = rate
        self.ahead = 0.0

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time() * self._rate + self.ahead


class SlowThreads:
    """Inline, but the loop goes on before and after, as long as a slow disk takes."""

    def __init__(self) -> None:
        self.seconds = 0.0

    async def run(self, work: Callable[[], T]) -> T:
        if self.seconds:
            await asyncio.sleep(self.seconds / 2)
        result = work()
        if self.seconds:
            await asyncio.sleep(self.seconds / 2)
        return result


class NodeDisk(SimDisk):
    """A disk that can stop its machine at its n-th change from now, and that can be slow."""

    def __init__(self) -> None:
        super().__init__()
        self.before_change = self._count
        self.changes_left: int | None = None
        self.on_crash: Callable[[], None] = lambda: None
        self.clock: Quartz | None = None
        self.sync_seconds = 0.0

    def _count(self) -> None:
        if self.changes_left is None:
            return
        self.changes_left -= 1
        if self.changes_left <= 0:
            self.changes_left = None
            self.on_crash()
            raise Crash

    def sync(self, file: object) -> None:
        if self.clock is not None:
            self.clock.ahead += self.sync_seconds
        super().sync(file)  # type: ignore[arg-type]


class _Spy:
    """The machine as the log sees it: the store, with everything that it becomes reported."""

    def __init__(self, store: Machine, on_state: Callable[[bytes | None], None]) -> None:
        self._store = store
        self._on_state = on_state

    def apply(self, entry: bytes) -> bool:
        answer = self._store.apply(entry)
        if answer:
            self._on_state(entry)
        return answer

    def capture(self) -> Iterator[bytes]:
        return self._store.capture()

    def restoring(self) -> Restoring:
        return _SpiedRestoring(self._store.restoring(), self._on_state)


class _SpiedRestoring:
    def __init__(self, restoring: Restoring, on_state: Callable[[bytes | None], None]) -> None:
        self._restoring = restoring
        self._on_state = on_state

    def take(self, part: bytes) -> None:
        self._restoring.take(part)

    def replace(self) -> None:
        self._restoring.replace()
        self._on_state(None)


class _SpiedLog:
    """`Log`, between the store and the real one."""

    def __init__(self, log: RaftLog, on_state: Callable[[bytes | None], None]) -> None:
        self._log = log
        self._on_state = on_state

    async def start(self, machine: Machine) -> None:
        await self._log.start(_Spy(machine, self._on_state))

    async def run(self) -> None:
        await self._log.run()

    async def propose(self, entry: bytes) -> bool:
        return await self._log.propose(entry)

    async def barrier(self) -> None:
        await self._log.barrier()

    @property
    def leadership(self) -> Leadership:
        return self._log.leadership

    async def leadership_change(self, seen: Leadership) -> Leadership:
        return await self._log.leadership_change(seen)

    async def close(self) -> None:
        await self._log.close()


def address_of(name: str) -> str:
    return f"{name}.example:6882"


async def lay_folder(disk: SimDisk, name: str, voters: Iterable[str], folder: str = FOLDER) -> None:
    """What a master has that was given the first snapshot of a cluster with these voters."""
    members = tuple(Member(voter, address_of(voter), is_voter=True) for voter in sorted(voters))
    await lay(
        sim_env(1, disk),
        folder,
        identity=Identity(cluster=CLUSTER, member=name),
        configuration=Configuration(members=members),
        capture=(),
        first_term=0,
    )


class SimNode:
    """`peers`: whom one that joins knows; a first member is given its folder with `lay`."""

    def __init__(
        self, name: str, wires: Wires, chance: random.Random, *, peers: Iterable[str] = ()
    ) -> None:
        self.name = name
        self._peers = list(peers)
        self._wires = wires
        self._chance = chance
        self.disk = NodeDisk()
        self.disk.on_crash = self.vanish
        self.threads = SlowThreads()
        self.clock = Quartz(chance.uniform(0.98, 1.02))
        self.disk.clock = self.clock
        self.options = {
            "segment_bytes": chance.choice((600, 3000, 20000)),
            "snapshot_every_entries": chance.choice((7, 25, 100)),
            "kept_entries": chance.choice((0, 3, 30)),
            "max_append_bytes": chance.choice((1, 300, 1 << 20)),
        }
        self.store: Store | None = None
        self.log: RaftLog | None = None
        self.port: Port | None = None
        self._task: asyncio.Task[None] | None = None
        self.failure: LogFailed | DamagedLog | None = None
        self.removed: Removed | None = None
        self.on_state: Callable[[SimNode, State, bytes | None], None] = lambda *_: None
        self.boots = 0

    @property
    def is_up(self) -> bool:
        return self.store is not None

    async def lay(self, voters: Iterable[str]) -> None:
        await lay_folder(self.disk, self.name, voters)

    async def start(self) -> None:
        """Raises DamagedLog, which no fault that is simulated here may lead to."""
        self.boots += 1
        self.removed = None
        env = Env(
            clock=self.clock,
            random=SimRandom(self._chance.getrandbits(32)),
            disk=self.disk,
            threads=self.threads,
        )
        self.port = Port(self._wires, self.name)
        self.log = RaftLog(
            env,
            FOLDER,
            cluster_id=CLUSTER,
            node=self.name,
            network=self.port,
            first_peers={peer: address_of(peer) for peer in self._peers},
            timing=Timing(),
            **self.options,  # type: ignore[arg-type]
        )
        store = Store(env, _SpiedLog(self.log, self._report), SCHEMA)
        self._starting = store
        await store.start()
        self.store = store
        self._task = asyncio.get_running_loop().create_task(self._run(store))

    async def stop(self, *, power_loss: bool) -> None:
        """Kill the process; with power loss, what its disk had not synced is lost too, or half."""
        if self.port is not None:
            self.port.unplug()
        self.store = None
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None
        self.disk.changes_left = None
        if power_loss:
            self.disk.crash(self._chance)
        else:
            self.disk.kill()

    def vanish(self) -> None:
        """The machine stops in the middle of something; the caller raises Crash."""
        assert self.port is not None
        self.port.unplug()
        self.store = None

    async def _run(self, store: Store) -> None:
        try:
            await store.run()
        except* Crash:
            pass
        except* LogFailed as failures:
            self.failure = _first(failures)
            self.vanish()
        except* Removed as ends:
            self.removed = _first(ends)
            self.vanish()

    def _report(self, entry: bytes | None) -> None:
        self.on_state(self, self._starting.state, entry)


def _first(group: BaseExceptionGroup[E]) -> E:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
