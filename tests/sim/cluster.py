"""A whole cluster in one process: real masters' and workers' logic, simulated disk, network, engines.

Everything above the ports is the product's own code. A master's kill loses its memory (and, as a
power loss, what its disk had not synced); a worker's kill leaves its machine's containers running.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol, cast

from fake_guardian import FakeGuardian
from fake_runtime import FakeRuntime, Machine
from orca_common.env import Env
from orca_master.app.core import MasterCore
from orca_master.cluster.model import NODES, Node
from orca_master.errors import Forbidden, Trouble
from orca_master.state.log import Log
from orca_master.state.raft import RaftLog
from orca_master.state.solo.log import SoloLog
from orca_proto import worker_pb2 as pb
from orca_worker.agent import Agent
from orca_worker.fencing import Fencing
from orca_worker.kept import KeptOutputs
from orca_worker.ports import Ingress, Link, Prober
from orca_worker.runtime.port import Phase
from orca_worker.session import Facts, Session
from orca_worker.specs import Specs
from sim.disk import SimDisk
from sim.env import SimClock, sim_env
from sim.raft.network import Port, Wires
from sim.raft.node import lay_folder
from sim.streams import MasterEnd, RelayedEnd, Sent, Stream, WorkerEnd, a_stream

CLUSTER = "simcluster"
DOWN_AFTER_SECONDS = 3.0
GIB = 1 << 30


class SimRelays:
    """`streams.Relays` of one master: to any other that leads, unless the network is cut between them."""

    def __init__(self, me: "SimMaster", chance: random.Random) -> None:
        self._me = me
        self._chance = chance

    def open(self, leader: str, node_id: str) -> AbstractAsyncContextManager[RelayedEnd]:
        return self._open(leader, node_id)

    @asynccontextmanager
    async def _open(self, leader: str, node_id: str) -> AsyncIterator[RelayedEnd]:
        me, other = self._me, self._me.others.get(leader)
        await asyncio.sleep(self._chance.uniform(0.001, 0.02))
        if other is None or not other.leads or me.is_cut_from(other):
            raise ConnectionError(f"{leader} does not take the stream")
        stream = a_stream(self._chance, lambda: me.is_cut_from(other))
        refusal: list[str] = []
        ended: list[bool] = []
        other.accept_relayed(node_id, stream, refusal, ended, through=me.name)
        me.streams[node_id].onward = stream
        try:
            yield RelayedEnd(stream, refusal, ended)
        finally:
            stream.close()


class SimMaster:
    """One master on one disk, which outlives it. With `peers`, one of several by Raft.

    `others` are reached through its relays, `streams` those of workers that it holds, by node.
    """

    def __init__(
        self, seed: int, name: str = "m1", peers: Sequence[str] = (), wires: Wires | None = None
    ) -> None:
        self.name = name
        self.disk = SimDisk()
        self._peers = peers
        self._wires = wires
        self._port: Port | None = None
        self._seed = seed
        self._boots = 0
        self._task: asyncio.Task[None] | None = None
        self._sessions: asyncio.TaskGroup | None = None
        self.core: MasterCore | None = None
        self.watchers: list[Callable[[MasterCore], Awaitable[None]]] = []
        self.sends: list[Sent] = []
        self.others: dict[str, SimMaster] = {}
        self.streams: dict[str, Stream] = {}

    @property
    def is_up(self) -> bool:
        return self.core is not None

    @property
    def leads(self) -> bool:
        return self.core is not None and self.core.store.leadership.is_leader

    def is_cut_from(self, other: "SimMaster") -> bool:
        return self._wires is not None and self._wires.is_cut(self.name, other.name)

    async def start(self) -> None:
        ready = asyncio.get_running_loop().create_future()
        if self._wires is not None and not self._boots:
            await lay_folder(self.disk, self.name, [self.name, *self._peers], "/log")
        self._boots += 1
        self._task = asyncio.create_task(self._run(ready))
        await asyncio.wait({ready, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            self._task.result()

    async def kill(self, power_loss: random.Random | None = None) -> None:
        assert self._task is not None
        self.core = None
        if self._port is not None:
            self._port.unplug()
        self._task.cancel()
        await asyncio.wait({self._task})
        if not self._task.cancelled() and (error := self._task.exception()) is not None:
            raise error
        if power_loss is None:
            self.disk.kill()
        else:
            self.disk.crash(power_loss)

    def accept(self, node_id: str, stream: Stream, refusal: list[str]) -> None:
        assert self._sessions is not None
        assert self.core is not None
        stream.core = self.core
        self.streams[node_id] = stream
        self._begin(stream, self._serve(self.core, node_id, stream, refusal))

    def accept_relayed(
        self, node_id: str, stream: Stream, refusal: list[str], ended: list[bool], *, through: str
    ) -> None:
        """A stream that another master holds; `ended` gets an element when it is closed for good."""
        assert self.core is not None
        stream.core = core = self.core

        async def serve() -> None:
            end = MasterEnd(stream, self.sends)
            if not await core.dispatcher.serve(node_id, end, through=through):
                ended.append(True)

        self._begin(stream, self._until_ended(serve, stream, refusal))

    def _begin(self, stream: Stream, serving: Coroutine[None, None, None]) -> None:
        assert self._sessions is not None
        try:
            self._sessions.create_task(serving)
        except RuntimeError:  # the master is ending by itself
            serving.close()
            stream.close()

    def raise_if_ended(self) -> None:
        """A master that ended by itself has found a violation, or has broken."""
        if self.core is not None and self._task is not None and self._task.done():
            self._task.result()

    async def _serve(
        self, core: MasterCore, node_id: str, stream: Stream, refusal: list[str]
    ) -> None:
        end = MasterEnd(stream, self.sends)
        await self._until_ended(lambda: core.streams.serve(node_id, end), stream, refusal)

    async def _until_ended(
        self, serve: Callable[[], Awaitable[None]], stream: Stream, refusal: list[str]
    ) -> None:
        try:
            await serve()
        except Forbidden as error:
            refusal.append(error.message)
        except (Trouble, ConnectionError):
            pass
        finally:
            stream.close()

    async def _run(self, ready: "asyncio.Future[None]") -> None:
        env = sim_env(self._seed * 1000 + self._boots, self.disk)
        core = MasterCore(
            env,
            self._log(env),
            SimRelays(self, random.Random(self._seed * 1000 + self._boots)),
            heartbeat_seconds=1.0,
            node_down_after_seconds=DOWN_AFTER_SECONDS,
        )
        await core.store.start()
        async with asyncio.TaskGroup() as group:
            self._sessions = group
            group.create_task(core.run())
            for watcher in self.watchers:
                group.create_task(watcher(core))  # type: ignore[arg-type]
            self.core = core
            ready.set_result(None)

    def _log(self, env: Env) -> Log:
        if self._wires is None:
            return SoloLog(
                env, "/log", cluster_id=CLUSTER, member_name=self.name, snapshot_every_entries=200
            )
        self._port = Port(self._wires, self.name)
        return RaftLog(
            env,
            "/log",
            cluster_id=CLUSTER,
            node=self.name,
            network=self._port,
            snapshot_every_entries=200,
        )


class SimMasters:
    """All masters; a worker that connects is given the next one that is up."""

    def __init__(self, seed: int, count: int, chance: random.Random) -> None:
        names = [f"m{number}" for number in range(1, count + 1)]
        self.wires = Wires(chance) if count > 1 else None
        self.all = [
            SimMaster(seed * 10 + number, name, [n for n in names if n != name], self.wires)
            for number, name in enumerate(names)
        ]
        for master in self.all:
            master.others = {other.name: other for other in self.all if other is not master}
        self._turns: Counter[str] = Counter()

    @property
    def is_up(self) -> bool:
        return any(master.is_up for master in self.all)

    @property
    def count(self) -> int:
        return len(self.all)

    def accept(self, node_id: str, stream: Stream, refusal: list[str]) -> None:
        up = [master for master in self.all if master.is_up]
        self._turns[node_id] += 1
        up[self._turns[node_id] % len(up)].accept(node_id, stream, refusal)

    @property
    def leader(self) -> MasterCore | None:
        """A master that takes itself for the leader: usually there is one, and one is right."""
        leading = [m.core for m in self.all if m.core and m.core.store.leadership.is_leader]
        return max(leading, key=lambda core: core.store.leadership.term, default=None)

    async def found_leader(self) -> MasterCore:
        while (leader := self.leader) is None:
            await asyncio.sleep(0.1)
        return leader


class AcceptsWorkers(Protocol):
    """A master, as a worker's line sees it."""

    @property
    def is_up(self) -> bool: ...
    @property
    def count(self) -> int: ...
    def accept(self, node_id: str, stream: Stream, refusal: list[str]) -> None: ...


class SimWorker:
    """One node: a machine that stays, a worker process that comes and goes, a line to the master."""

    def __init__(
        self, index: int, seed: int, master: AcceptsWorkers, chance: random.Random
    ) -> None:
        self.name = f"node-{index}"
        self.id = f"{index:016x}"
        self._master = master
        self._chance = chance
        self._seed = seed * 7919 + index
        self._boots = 0
        self._task: asyncio.Task[None] | None = None
        self._stream: Stream | None = None
        self.cut = False
        self.steady_since = 0.0
        self.clock_offset = 0.0
        self.prober: Prober = _AlwaysHealthy()
        env = sim_env(self._seed)
        self.env: Env = env
        self.machine = Machine(registry={"broken:1": "image broken:1 not found: manifest unknown"})
        self.machine.images = {"app:1", "app:2", "app:3", "app:4"}
        self.kept: KeptOutputs | None = None
        self.ingress: Ingress | None = None
        self.runtime = FakeRuntime(
            env,
            cluster=CLUSTER,
            node=self.id,
            start_seconds=0.2,
            pull_seconds=0.5,
            machine=self.machine,
        )
        self.specs_folder: str | None = None  # of the real disk
        self.guardian = FakeGuardian(self._end)
        self._guarding: asyncio.Task[None] | None = None

    @property
    def is_up(self) -> bool:
        return self._task is not None

    def start(self) -> None:
        self._boots += 1
        self._guarding = self._guarding or asyncio.create_task(self.guardian.run())
        self._task = asyncio.create_task(self._run())

    async def kill(self) -> None:
        if self._task is None:
            return
        task, self._task = self._task, None
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
        if self._stream is not None:
            self._stream.close()

    def _end(self, task_id: str) -> None:
        thing = self.machine.things.get(task_id)
        if thing is not None and thing.container.phase is Phase.RUNNING:
            self.runtime.crash(task_id, 137)

    def power_off(self) -> None:
        """The machine and all on it, its guardian too."""
        if self._guarding is not None:
            self._guarding.cancel()
            self._guarding = None

    def is_heard_by(self, core: MasterCore) -> float:
        """For how many seconds nothing has kept its beats from coming to this master; 0: something does."""
        stream, since = self._stream, self.steady_since
        if not self.is_up or self.cut:
            return 0.0
        while stream is not None and not stream.up.closed:
            since = max(since, stream.up.steady_since)
            if stream.core is core:
                return asyncio.get_running_loop().time() - since
            stream = stream.onward
        return 0.0

    def set_cut(self, cut: bool) -> None:
        self.cut = cut
        self.steady_since = asyncio.get_running_loop().time()
        if self._stream is not None:
            self._stream.up.hold(cut)
            self._stream.down.hold(cut)

    def hold(self, *, up: bool, down: bool) -> None:
        """Cut the line in one direction; in both, it is cut, and no other stream is opened."""
        self.set_cut(up or down)
        if self._stream is not None:
            self._stream.up.hold(up)
            self._stream.down.hold(down)

    @property
    def master_count(self) -> int:
        return self._master.count

    def know(self, masters: list[str]) -> None:
        """The simulated network finds who leads by itself."""

    def connect(self) -> AbstractAsyncContextManager[Link]:
        return self._connect()

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[Link]:
        if not self._master.is_up or self.cut:
            await asyncio.sleep(0.1)
            raise ConnectionError("no master answers")
        stream = a_stream(self._chance)
        refusal: list[str] = []
        self._stream = stream
        self.steady_since = asyncio.get_running_loop().time()
        self._master.accept(self.id, stream, refusal)
        try:
            yield WorkerEnd(stream, refusal)
        finally:
            stream.close()

    async def _run(self) -> None:
        env = sim_env(self._seed * 1000 + self._boots)
        cast("SimClock", env.clock).offset = self.clock_offset
        agent = Agent(
            env,
            {"docker": self.runtime},
            self.prober,
            Fencing(env, self.guardian),
            cluster=CLUSTER,
            node=self.id,
            kept=self.kept,
            specs=Specs(env, self.specs_folder),
        )
        facts = Facts(
            name=self.name,
            version="sim",
            address="10.0.0.1",
            os="linux",
            architecture="x86_64",
            labels={},
            memory_bytes=8 * GIB,
            cpu_millis=8000,
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(agent.run())
            group.create_task(Session(env, agent, self, facts, ingress=self.ingress).run())


class _AlwaysHealthy:
    async def check(self, probe: pb.Probe, host: str, port: int) -> str | None:
        return None


@dataclass
class SimCluster:
    """`workers` are enrolled at the start, as if by join tokens."""

    seed: int
    master_count: int = 1
    worker_count: int = 3
    chance: random.Random = field(init=False)
    masters: SimMasters = field(init=False)
    workers: list[SimWorker] = field(init=False)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.masters = SimMasters(self.seed, self.master_count, self.chance)
        self.workers = [
            SimWorker(index, self.seed, self.masters, self.chance)
            for index in range(1, self.worker_count + 1)
        ]

    async def start(self) -> None:
        for master in self.masters.all:
            await master.start()
        core = await self.masters.found_leader()
        await core.found(cluster_id=CLUSTER, cluster_name="sim")
        for worker in self.workers:
            node = Node(id=worker.id, name=worker.name, joined_at=core.env.now())
            await core.store.update(lambda tx, node=node: tx.put(NODES, node))  # type: ignore[misc]
            worker.start()

    async def stop(self) -> None:
        for worker in self.workers:
            await worker.kill()
            worker.power_off()
        for master in self.masters.all:
            if master.is_up:
                await master.kill()
