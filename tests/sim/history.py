"""One random history of a cluster: what people ask for, what breaks, and what must stay true.

Everything is drawn from the seed. The invariants are checked at every commit and every half second;
at the end everything is healed and the cluster must arrive at what was last acknowledged.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from orca_master.app.core import MasterCore
from orca_master.cluster.model import NODES, Node, NodeState
from orca_master.cluster.operations import down_nodes
from orca_master.errors import NotFound, OutcomeUnknown, Trouble
from orca_master.identity.model import DEFAULT_TENANT
from orca_master.services import operations
from orca_master.services.model import SERVICES, Policy, Reconnect, Service, ServiceSpec
from orca_master.services.rollouts.model import DeploymentState
from orca_master.services.rollouts.operations import last_deployment, revision_of
from orca_master.services.status import status
from orca_master.state.follow import FeedOverrun
from orca_master.state.transaction import View
from orca_master.tasks.constraints import Constraints
from orca_master.tasks.model import TASKS, Task, Wanted
from orca_proto import worker_pb2 as pb
from orca_worker.runtime.port import Phase
from sim.cluster import CLUSTER, DOWN_AFTER_SECONDS, SimCluster, SimWorker
from sim.env import EPOCH

CHAOS_SECONDS = 60.0
CONVERGE_SECONDS = 600.0
STEADY_SECONDS = 1.5
"""A beat a second, and time for the verdict's commit."""
NAMES = ("web", "api", "db", "job")
FENCED = frozenset({"db"})
IMAGES = ("app:1", "app:2", "app:3", "broken:1")


class Violation(AssertionError):
    """An invariant does not hold."""


@dataclass(frozen=True)
class Want:
    """What the last acknowledged request for a service left behind."""

    image: str
    replicas: int
    stopped: bool


@dataclass
class History:
    seed: int
    masters: int = 1
    cluster: SimCluster = field(init=False)
    wants: dict[str, set[Want | None]] = field(default_factory=dict)
    """Per service: the states that are possible; one unless an outcome is unknown."""
    names: tuple[str, ...] = NAMES
    fenced: frozenset[str] = FENCED
    counts: Counter[str] = field(default_factory=Counter)
    _tokens: dict[tuple[str, int], tuple[int, str]] = field(default_factory=dict)
    _strays: int = 0
    story: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cluster = SimCluster(self.seed, self.masters)

    async def run(self) -> None:
        cluster = self.cluster
        for master in cluster.masters.all:
            master.watchers.append(self._check_commits)
        await cluster.start()
        async with asyncio.TaskGroup() as group:
            checking = group.create_task(self._check_machines())
            fences = group.create_task(self._check_fences())
            until = self._now() + CHAOS_SECONDS
            faults = [fault for fault in self.faults() if cluster.chance.random() < 0.6]
            while self._now() < until:
                await asyncio.sleep(cluster.chance.uniform(0.0, 2.0))
                pool = [*self.requests(), *faults]
                await cluster.chance.choice(pool)(self)
            await self._heal()
            await self._converge()
            checking.cancel()
            fences.cancel()
        await cluster.stop()

    def requests(self) -> Sequence[Callable[["Any"], Awaitable[None]]]:
        return _REQUESTS

    def faults(self) -> Sequence[Callable[["Any"], Awaitable[None]]]:
        return _FAULTS if self.masters == 1 else (*_FAULTS, History.cut_masters)

    # What people ask for.

    async def deploy(self) -> None:
        chance = self.cluster.chance
        name, image = chance.choice(self.names), chance.choice(IMAGES)
        replicas = chance.randint(0, 5)
        pin = chance.choice(["", "", chance.choice(self.cluster.workers).name])
        spec = ServiceSpec(
            image=image,
            memory_bytes=64 << 20,
            constraints=Constraints(node=pin),
            fence=name in self.fenced,
        )
        want = Want(image, replicas, stopped=False)
        reconnect = chance.choice(list(Reconnect))

        def request(tx: operations.Transaction) -> None:
            operations.deploy(
                tx,
                tenant=DEFAULT_TENANT,
                project="default",
                name=name,
                spec=spec,
                replicas=replicas,
                now=self.now_wall(),
                policy=Policy(reconnect=reconnect),
            )

        await self._ask(f"deploy {name} {image} x{replicas} {pin}", name, request, want)

    async def scale(self) -> None:
        chance = self.cluster.chance
        name, replicas = chance.choice(self.names), chance.randint(0, 5)
        before = self.wants.get(name, {None})
        after = {
            None if want is None else Want(want.image, replicas, want.stopped and replicas == 0)
            for want in before
        }

        def request(tx: operations.Transaction) -> None:
            operations.scale(
                tx,
                tenant=DEFAULT_TENANT,
                name=name,
                project=None,
                replicas=replicas,
                now=self.now_wall(),
            )

        await self._ask(f"scale {name} {replicas}", name, request, *after)

    async def stop_service(self) -> None:
        name = self.cluster.chance.choice(self.names)
        before = self.wants.get(name, {None})
        after = {
            None if want is None else Want(want.image, want.replicas, stopped=True)
            for want in before
        }

        def request(tx: operations.Transaction) -> None:
            service = operations.resolve(tx, DEFAULT_TENANT, name, None)
            operations.stop(tx, service, purge=False, now=self.now_wall())

        await self._ask(f"stop {name}", name, request, *after)

    async def _ask(self, what: str, name: str, request: object, *after: Want | None) -> None:
        core = self.cluster.masters.leader
        before = self.wants.get(name, {None})
        if core is None:
            return
        self.wants[name] = before | set(after)  # until the answer says which
        try:
            async with asyncio.timeout(5.0):
                await core.store.update(request)  # type: ignore[arg-type]
        except (OutcomeUnknown, TimeoutError):
            self._tell(f"{what}: unknown")
        except (NotFound, Trouble):
            self.wants[name] = before
            self._tell(f"{what}: refused")
        else:
            self.wants[name] = set(after)
            self._tell(f"{what}: done")

    # What breaks.

    async def crash_container(self) -> None:
        worker = self.cluster.chance.choice(self.cluster.workers)
        running = [id for id, t in worker.machine.things.items() if _runs(t.container.phase)]
        if running:
            self._tell(f"{worker.name}: a container crashes")
            worker.runtime.crash(self.cluster.chance.choice(running), 1)

    async def kill_master(self) -> None:
        chance = self.cluster.chance
        master = chance.choice(self.cluster.masters.all)
        power = chance.random() < 0.5
        self._tell(f"{master.name}: " + ("power loss" if power else "kill"))
        asking = asyncio.create_task(self.deploy()) if chance.random() < 0.5 else None
        await asyncio.sleep(chance.uniform(0, 0.001))
        await master.kill(chance if power else None)
        if asking is not None:
            await asking
        await asyncio.sleep(chance.uniform(0.1, 8.0))
        await master.start()

    async def cut_masters(self) -> None:
        """One master is cut off from the others for a while, the leader as likely as any."""
        wires = self.cluster.masters.wires
        assert wires is not None
        alone, *others = self.cluster.chance.sample(self.cluster.masters.all, self.masters)
        self._tell(f"{alone.name}: cut off")
        for other in others:
            wires.cut(alone.name, other.name)
        await asyncio.sleep(self.cluster.chance.uniform(0.5, 6.0))
        wires.heal()

    async def kill_worker(self) -> None:
        worker = self.cluster.chance.choice(self.cluster.workers)
        self._tell(f"{worker.name}: worker killed")
        await worker.kill()
        await asyncio.sleep(self.cluster.chance.uniform(0.1, 15.0))
        worker.start()

    async def reboot(self) -> None:
        worker = self.cluster.chance.choice(self.cluster.workers)
        self._tell(f"{worker.name}: machine reboots")
        await worker.kill()
        worker.runtime.lose_all()
        await asyncio.sleep(self.cluster.chance.uniform(1.0, 30.0))
        worker.start()

    async def reinstall(self) -> None:
        """The machine comes back empty, or with something that no master knows."""
        worker = self.cluster.chance.choice(self.cluster.workers)
        self._tell(f"{worker.name}: machine reinstalled")
        await worker.kill()
        worker.machine.things.clear()
        if self.cluster.chance.random() < 0.5:
            await self._leave_a_stray(worker)
        await asyncio.sleep(self.cluster.chance.uniform(1.0, 5.0))
        worker.start()

    async def _leave_a_stray(self, worker: SimWorker) -> None:
        self._strays += 1
        task = pb.Task(id=f"stray-{self._strays}", service="stray", revision=1)
        labels = {"orca.cluster": CLUSTER, "orca.node": worker.id, "orca.service": "stray"}
        spec = pb.TaskSpec(image="app:1")
        await worker.runtime.create(task, spec, labels | {"orca.revision": "1"})
        await worker.runtime.start(task.id)

    async def cut_line(self) -> None:
        """A line is cut, for shorter or longer than a node may be silent; others may be cut too."""
        worker = self.cluster.chance.choice(self.cluster.workers)
        if worker.cut:
            return
        self._tell(f"{worker.name}: line cut")
        worker.set_cut(True)
        seconds = self.cluster.chance.uniform(0.5, 2.5 * DOWN_AFTER_SECONDS)
        asyncio.get_running_loop().call_later(seconds, worker.set_cut, False)

    async def lose_events(self) -> None:
        worker = self.cluster.chance.choice(self.cluster.workers)
        self._tell(f"{worker.name}: engine restarts")
        worker.runtime.lose_watchers()

    # What must stay true.

    async def _check_commits(self, core: MasterCore) -> None:
        """A task's observed state never goes back, a stopped task never runs again."""
        with core.store.feed(limit=100_000) as feed:
            while True:
                try:
                    commit = await feed.next()
                except FeedOverrun:
                    continue
                for table, key in commit.changes:
                    if table == TASKS.name:
                        before = commit.before.get(TASKS, *key)
                        after = commit.after.get(TASKS, *key)
                        self._check_task(before, after)
                    if table == NODES.name:
                        before_node = commit.before.get(NODES, *key)
                        self._check_node(core, before_node, commit.after.get(NODES, *key))

    def _check_task(self, before: Task | None, after: Task | None) -> None:
        self.counts["task changes"] += 1
        if before is None or after is None:
            return
        if after.observed.state < before.observed.state:
            self._violated(f"task {after.id} went back: {before.observed} → {after.observed}")
        if before.wanted is Wanted.STOP and after.wanted is Wanted.RUN:
            self._violated(f"task {after.id} was stopped and is wanted again")
        if before.node and after.node != before.node:
            self._violated(f"task {after.id} moved from {before.node} to {after.node}")

    def _check_node(self, core: MasterCore, before: Node | None, after: Node | None) -> None:
        """Nobody is down who is heard of."""
        if before is None or after is None or before.state is after.state:
            return
        if after.state is not NodeState.DOWN or not core.store.leadership.is_leader:
            return
        self.counts["nodes down"] += 1
        worker = next(w for w in self.cluster.workers if w.id == after.id)
        if (seconds := worker.is_heard_by(core)) > STEADY_SECONDS:
            self._violated(f"{after.name} is down, its beats came for {seconds:.1f} s")

    async def _check_machines(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            for master in self.cluster.masters.all:
                master.raise_if_ended()
            self._check_no_task_twice()
            await self._check_nothing_lost()

    def _check_no_task_twice(self) -> None:
        everywhere = Counter(id for w in self.cluster.workers for id in w.machine.things)
        twice = [id for id, count in everywhere.items() if count > 1]
        if twice:
            self._violated(f"tasks on two machines: {twice}")

    async def _check_fences(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            self._check_nothing_fenced_twice()

    def _check_nothing_fenced_twice(self) -> None:
        """Of each fenced replica one runs at most, and each has a higher token than the one before."""
        running: dict[tuple[str, int], str] = {}
        for worker in self.cluster.workers:
            for thing in worker.machine.things.values():
                token = int(thing.spec.env.get("ORCA_FENCING_TOKEN", "0"))
                if not token or not _runs(thing.container.phase):
                    continue
                task = thing.task
                replica = task.service, task.slot
                if replica in running:
                    self._violated(f"{replica} runs twice: {task.id} and {running[replica]}")
                running[replica] = task.id
                last, id = self._tokens.get(replica, (0, ""))
                if task.id != id and token <= last:
                    self._violated(f"{replica} has token {token}, before that it had {last}")
                self.counts["fenced starts"] += task.id != id
                self._tokens[replica] = token, task.id

    async def _check_nothing_lost(self) -> None:
        core = self.cluster.masters.leader
        if core is None:
            return
        asked = dict(self.wants)
        try:
            async with asyncio.timeout(5.0):
                state = await core.store.fresh()
        except (Trouble, TimeoutError):
            return
        for name, possible in asked.items():
            if self.wants[name] is not possible:
                continue  # it was asked for something else meanwhile
            row = state.get(SERVICES, DEFAULT_TENANT, "default", name)
            if not _wants_of(state, row) & possible:
                self._violated(f"{name} is {_wants_of(state, row)}, acknowledged was {possible}")
            self.counts["rows compared"] += 1

    async def _heal(self) -> None:
        self._tell("all is healed")
        for worker in self.cluster.workers:
            worker.set_cut(False)
            if not worker.is_up:
                worker.start()
        if self.cluster.masters.wires is not None:
            self.cluster.masters.wires.heal()
        for master in self.cluster.masters.all:
            if not master.is_up:
                await master.start()

    async def _converge(self) -> None:
        until = self._now() + CONVERGE_SECONDS
        while (missing := self._missing()) is not None:
            if self._now() > until:
                self._violated(f"not converged: {missing}")
            await asyncio.sleep(1.0)

    def _missing(self) -> str | None:
        """What keeps the cluster from being as wanted; None if nothing does."""
        core = self.cluster.masters.leader
        if core is None:
            return "nobody leads"
        state = core.store.state
        expected: Counter[tuple[str, str]] = Counter()
        for service in state.scan(SERVICES):
            word = status(state, service, down_nodes(state)).status
            if self._is_broken(service) and service.wanted_replicas:
                if word == "running":
                    return f"{service.name} runs what cannot run"
                continue
            if word != ("running" if service.wanted_replicas else "stopped"):
                return f"{service.name} is {word}"
            expected[service.name, str(service.revision)] = service.wanted_replicas
        leaving = [task.id for task in state.scan(TASKS) if task.wanted is Wanted.STOP]
        if leaving:
            return f"still to be stopped: {leaving}"
        actual: Counter[tuple[str, str]] = Counter()
        broken = {s.name for s in state.scan(SERVICES) if self._is_broken(s)}
        for worker in self.cluster.workers:
            for thing in worker.machine.things.values():
                labels = thing.container.labels
                if labels["orca.service"] not in broken:
                    actual[labels["orca.service"], labels["orca.revision"]] += 1
        return None if +actual == +expected else f"{dict(actual)} exist, wanted {dict(expected)}"

    def _is_broken(self, service: Service) -> bool:
        return service.spec.image == "broken:1"

    def now_wall(self) -> float:
        return EPOCH + self._now()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _tell(self, event: str) -> None:
        self.counts["events"] += 1
        self.story.append(f"{self._now():8.3f} {event}")

    def _violated(self, what: str) -> None:
        told = "\n".join(self.story[-40:])
        raise Violation(f"seed {self.seed}, at {self._now():.3f} s: {what}\n{told}")


def _runs(phase: Phase) -> bool:
    return phase is Phase.RUNNING


def _wants_of(view: View, row: Service | None) -> set[Want | None]:
    """What may have been acknowledged last if this is what there is: a rollout that was reverted, or
    cancelled, has left the image that was asked for."""
    if row is None:
        return {None}
    images = {row.spec.image}
    last = last_deployment(view, row)
    newest = revision_of(view, row, row.newest)
    if last is not None and last.goal != row.newest and newest is not None:
        images.add(newest.spec.image)
    if last is not None and last.state is DeploymentState.CANCELLED and newest is not None:
        images.add(newest.spec.image)
    return {Want(image, row.replicas, row.stopped) for image in images}


_REQUESTS = (History.deploy, History.scale, History.stop_service, History.deploy)
_FAULTS = (
    History.crash_container,
    History.kill_master,
    History.kill_worker,
    History.reboot,
    History.reinstall,
    History.cut_line,
    History.lose_events,
)
