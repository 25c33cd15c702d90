"""Random histories of rollouts: every strategy, good and bad revisions, promote, rollback, pause, lost nodes.

Beyond what `History` checks, at every commit: no more replicas are wanted than the strategy allows, none that
is ready stops for a rollout below what may be missing, no decision is without its sentence, and a rollback
leads to a revision that once was stable. In the end every rollout is over.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from orca_master.app.core import MasterCore
from orca_master.cluster.operations import down_nodes
from orca_master.errors import Conflict
from orca_master.identity.model import DEFAULT_TENANT
from orca_master.services import operations
from orca_master.services.model import (
    SERVICES,
    Condition,
    Dependency,
    Policy,
    Service,
    ServiceSpec,
    key_of_owner,
)
from orca_master.services.rollouts import operations as rollouts
from orca_master.services.rollouts.lanes import held_slots
from orca_master.services.rollouts.model import (
    DEPLOYMENTS,
    Deployment,
    DeploymentState,
    Kind,
)
from orca_master.services.rollouts.operations import last_deployment, revision_of
from orca_master.services.strategy import (
    Canary,
    OnFailure,
    Order,
    Rollout,
    Share,
    Step,
    Strategy,
)
from orca_master.state.follow import Commit, FeedOverrun
from orca_master.state.transaction import Transaction, View
from orca_master.tasks.model import TASKS, Probe, Task, Wanted
from orca_proto import worker_pb2 as pb
from sim.history import History, Want

MOST_REPLICAS = 6
DEADLINE_SECONDS = 15.0
CHECKS = ("/well", "/well", "/slow", "/sick", "/flaky")
"""How what runs answers its health check: see `_Prober`."""

BRITTLE = Probe(path="/brittle", interval_seconds=1.0, failure_threshold=2)


@dataclass
class _Prober:
    """By the path: at once, from the fourth time, never, or mostly; `/brittle`, a liveness probe, fails
    now and then for good, but not any more when everything is to come to rest."""

    history: "Rolls"
    asked: dict[tuple[int, str], int] = field(default_factory=dict)
    chance: random.Random = field(default_factory=lambda: random.Random(1))

    async def check(self, probe: pb.Probe, host: str, port: int) -> str | None:
        key = port, probe.path
        self.asked[key] = self.asked.get(key, 0) + 1
        chance = self.chance.random()
        fails = {
            "/slow": self.asked[key] < 4,
            "/sick": True,
            "/flaky": chance < 0.1,
            "/brittle": chance < 0.3 and not self.history.is_calm,
        }.get(probe.path, False)
        return "answered 503" if fails else None


@dataclass
class Rolls(History):
    names: tuple[str, ...] = ("web", "api", "db")
    is_calm: bool = False
    depends_on: dict[str, tuple[Dependency, ...]] = field(default_factory=dict)
    """The same for a whole history: in every second one web needs api, which needs db."""
    widest: dict[tuple[str, int], int] = field(default_factory=dict)
    were_there: set[tuple[str, Condition]] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seed % 2:
            self.depends_on = {
                "web": (Dependency("api"),),
                "api": (Dependency("db", Condition.STARTED),),
            }
        tags = {"app:1": f"sha256:{'1' * 64}", "app:2": f"sha256:{'2' * 64}"}
        for worker in self.cluster.workers:
            worker.prober = _Prober(self)
            worker.machine.digests = tags
        for master in self.cluster.masters.all:
            master.watchers.append(self._check_rollouts)

    def requests(self) -> Sequence[Callable[[Any], Awaitable[None]]]:
        return (
            Rolls.deploy,
            Rolls.deploy,
            Rolls.deploy,
            History.scale,
            Rolls.promote,
            Rolls.promote,
            Rolls.roll_back,
            Rolls.pause,
            Rolls.resume,
            Rolls.resume,
            Rolls.restart,
            Rolls.move_tag,
            History.stop_service,
        )

    async def deploy(self) -> None:
        chance = self.cluster.chance
        name = chance.choice(self.names)
        image = chance.choice(("app:1", "app:2", "app:3", "app:4", "broken:1"))
        replicas = chance.randint(1, MOST_REPLICAS)
        path = chance.choice(CHECKS)
        spec = ServiceSpec(
            image=image,
            memory_bytes=16 << 20,
            port=80,
            health=path,
            liveness=BRITTLE if name == "db" else None,
            fence=name in self.fenced,
        )
        rollout = self._rollout()
        want = Want(image, replicas, stopped=False)

        def request(tx: Transaction) -> None:
            operations.deploy(
                tx,
                tenant=DEFAULT_TENANT,
                project="default",
                name=name,
                spec=spec,
                replicas=replicas,
                now=self.now_wall(),
                policy=Policy(rollout=rollout, depends_on=self.depends_on.get(name, ())),
            )

        what = f"deploy {name} {image}{path} x{replicas} {rollout.strategy} {rollout.max_parallel}"
        await self._ask(what, name, request, want)

    async def move_tag(self) -> None:
        """Somebody pushes: from now on a name means another image."""
        image = self.cluster.chance.choice(("app:1", "app:2", "app:3"))
        digest = f"sha256:{self.cluster.chance.randbytes(32).hex()}"
        self.cluster.workers[0].machine.digests[image] = digest
        self._tell(f"{image} is now {digest[:12]}")

    def _rollout(self) -> Rollout:
        chance = self.cluster.chance
        steps = chance.choice(
            [
                (),
                (Step(10, 2.0), Step(50, 2.0)),
                (Step(20, pause=True), Step(60, 1.0)),
            ]
        )
        return Rollout(
            strategy=chance.choice(list(Strategy)),
            order=chance.choice([Order.AUTO, Order.AUTO, Order.STOP_FIRST]),
            max_parallel=chance.choice([Share(number=1), Share(percent=25), Share(percent=60)]),
            max_unavailable=chance.choice([None, Share(number=1)]),
            min_healthy=chance.choice([None, 0.0, 2.0, 10.0]),
            healthy_deadline=DEADLINE_SECONDS,
            progress_deadline=2 * DEADLINE_SECONDS,
            on_failure=chance.choice([OnFailure.REVERT, OnFailure.REVERT, OnFailure.PAUSE]),
            keep_old=chance.choice([0.0, 0.0, 5.0]),
            canary=Canary(
                share=chance.choice([Share(number=1), Share(percent=50)]),
                steps=steps,
                auto_promote=chance.random() < 0.5,
            ),
        )

    async def promote(self) -> None:
        one_step = self.cluster.chance.random() < 0.5
        await self._verb(
            "promote",
            lambda tx, service: rollouts.promote_canary(
                tx, service, by="somebody", one_step=one_step, now=self.now_wall()
            ),
        )

    async def roll_back(self) -> None:
        await self._verb(
            "roll back",
            lambda tx, service: rollouts.roll_back(
                tx, service, to=None, by="somebody", now=self.now_wall()
            ),
            moves=True,
        )

    async def pause(self) -> None:
        await self._verb(
            "pause",
            lambda tx, service: rollouts.pause(tx, service, by="x", now=self.now_wall()),
        )

    async def resume(self) -> None:
        await self._verb(
            "resume",
            lambda tx, service: rollouts.resume(tx, service, by="x", now=self.now_wall()),
        )

    async def restart(self) -> None:
        await self._verb(
            "restart",
            lambda tx, service: rollouts.restart(tx, service, by="x", now=self.now_wall()),
            moves=True,
        )

    async def _verb(
        self,
        verb: str,
        doing: Callable[[Transaction, Service], object],
        name: str = "",
        *,
        moves: bool = False,
    ) -> None:
        """`moves`: any image that the service ever had may be what is wanted after."""
        name = name or self.cluster.chance.choice(self.names)

        def request(tx: Transaction) -> None:
            doing(tx, operations.resolve(tx, DEFAULT_TENANT, name, None))

        before = self.wants.get(name, {None})
        images = ("app:1", "app:2", "app:3", "app:4", "broken:1")
        after = before | {
            Want(image, want.replicas, stopped)
            for want in before
            if want is not None
            for image in images
            for stopped in (False, want.stopped)
        }
        try:
            await self._ask(f"{verb} {name}", name, request, *(after if moves else before))
        except Conflict:
            self.wants[name] = before
            self._tell(f"{verb} {name}: not now")

    # What must stay true.

    async def _check_rollouts(self, core: MasterCore) -> None:
        with core.store.feed(limit=100_000) as feed:
            while True:
                try:
                    commit = await feed.next()
                except FeedOverrun:
                    continue
                for table, key in commit.changes:
                    if table == DEPLOYMENTS.name:
                        before = commit.before.get(DEPLOYMENTS, *key)
                        self._check_said(commit.after, before, commit.after.get(DEPLOYMENTS, *key))
                owners = {key[0] for table, key in commit.changes if table == TASKS.name}
                for owner in owners:
                    self._check_numbers(commit, owner)
                self._check_order(commit)

    def _check_order(self, commit: Commit) -> None:
        """Nothing is made for a service before what it depends on was there once."""
        tasks = [key for table, key in commit.changes if table == TASKS.name]
        for key in tasks:
            if commit.before.get(TASKS, *key) is None and (made := commit.after.get(TASKS, *key)):
                for needed in self.depends_on.get(made.name, ()):
                    self.counts["starts in order"] += 1
                    if (needed.name, needed.condition) not in self.were_there:
                        self._violated(f"{made.name} begins before {needed}")
        for key in tasks:
            task = commit.after.get(TASKS, *key)
            if task is not None and task.is_ready:
                self.were_there.add((task.name, Condition.HEALTHY))
            if task is not None and task.observed.started_at > 0:
                self.were_there.add((task.name, Condition.STARTED))

    def _check_said(self, state: View, before: Deployment | None, after: Deployment | None) -> None:
        if after is None:
            return
        seen = ("state", "holding", "stage", "moved")
        if before is None or any(getattr(before, f) != getattr(after, f) for f in seen):
            self.counts["decisions"] += 1
            if not after.said or (before is not None and after.said == before.said):
                self._violated(f"a decision without a sentence: {before} → {after}")
        if before is None or before.state is after.state or not after.state.is_over:
            return
        self.counts[after.state] += 1
        service = state.get(SERVICES, after.tenant, after.project, after.service)
        is_back = after.state is DeploymentState.REVERTED or after.kind is Kind.ROLLBACK
        if service is None or not is_back or after.state is DeploymentState.SUPERSEDED:
            return
        goal = revision_of(state, service, after.goal)
        if goal is None or not goal.stable_at:
            self._violated(f"{service.name} went back to {goal}, which was never stable")

    def _check_numbers(self, commit: Commit, owner: str) -> None:
        key = key_of_owner(owner)
        before, after = commit.before.get(SERVICES, *key), commit.after.get(SERVICES, *key)
        if before is None or after is None or not after.wanted_replicas:
            return
        self._check_surge(commit, before, after)
        stopped = [
            task
            for task in commit.after.find(TASKS, "owner", owner)
            if task.wanted is Wanted.STOP and _was_ready(commit.before, task)
        ]
        if stopped and before.wanted_replicas == after.wanted_replicas:
            self._check_missing(commit, after, stopped)

    def _check_surge(self, commit: Commit, before: Service, after: Service) -> None:
        """What a rollout before has left, or a node brings back, may be above it; it only gets less."""
        down = down_nodes(commit.before)
        extra = _extra(commit.after, after, down | down_nodes(commit.after))
        left = _extra(commit.before, after, down)
        most = max(
            _surge(commit.before, before, before.wanted_replicas),
            _surge(commit.after, after, self._widest(before, after)),
        )
        if extra > max(most, left):
            self._violated(f"{after.name} has {extra} above the wanted number, {most} at most")

    def _widest(self, before: Service, after: Service) -> int:
        """So many replicas were wanted at most during the rollout: slots that are on their way stay so."""
        key = after.name, after.deployment
        known = self.widest.get(key, 0)
        self.widest[key] = max(known, before.wanted_replicas, after.wanted_replicas)
        return self.widest[key]

    def _check_missing(self, commit: Commit, after: Service, stopped: list[Task]) -> None:
        """A rollout stops nothing that is ready below what may be missing."""
        going = last_deployment(commit.after, after)
        if going is None or going.strategy is Strategy.RECREATE or after.name in self.fenced:
            return
        ready_before = _ready_slots(commit.before, after)
        ready_after = _ready_slots(commit.after, after)
        lost = ready_before - ready_after
        rollout = after.policy.rollout
        parallel = max(1, rollout.max_parallel.of(after.wanted_replicas))
        bound = rollout.max_unavailable
        most = parallel if bound is None else max(1, bound.of(after.wanted_replicas))
        if going.holding:
            most = max(most, len(held_slots(going, rollout, after.wanted_replicas)))
        if lost and (not going.stop_first or len(lost) > most):
            self._violated(
                f"{after.name} loses {lost} of {ready_before} by {going}: {[t.id for t in stopped]}"
            )

    def _missing(self) -> str | None:
        """In the end all replicas of a revision run one image, if they run one of a registry."""
        missing = super()._missing()
        if missing is not None:
            return missing
        found: dict[tuple[str, str], set[str]] = {}
        for worker in self.cluster.workers:
            for thing in worker.machine.things.values():
                labels, image = thing.container.labels, thing.container.image
                if image.startswith("sha256:"):
                    key = labels["orca.service"], labels["orca.revision"]
                    found.setdefault(key, set()).add(image)
        self.counts["pinned revisions"] += len(found)
        mixed = [key for key, images in found.items() if len(images) > 1]
        return f"several images: {mixed}" if mixed else None

    def _is_broken(self, service: Service) -> bool:
        if service.spec.image == "broken:1" or service.spec.health == "/sick":
            return True
        return service.waits and any(self._never_comes(d.name) for d in service.policy.depends_on)

    def _never_comes(self, name: str) -> bool:
        core = self.cluster.masters.leader
        found = core and core.store.state.get(SERVICES, DEFAULT_TENANT, "default", name)
        return not found or not found.wanted_replicas or self._is_broken(found)

    async def _converge(self) -> None:
        self.is_calm = True
        for _ in range(40):
            await self._go_on()
        await super()._converge()

    async def _go_on(self) -> None:
        """Whatever waits for somebody is resumed, or taken back if it goes on failing."""
        core = self.cluster.masters.leader
        if core is not None:
            for service in core.store.state.scan(SERVICES):
                going = last_deployment(core.store.state, service)
                if going is None or going.state is not DeploymentState.PAUSED:
                    continue
                if going.paused_for == "failure" and self.cluster.chance.random() < 0.5:
                    await self._verb(
                        "roll back",
                        lambda tx, found: rollouts.roll_back(
                            tx, found, to=None, by="x", now=self.now_wall()
                        ),
                        service.name,
                        moves=True,
                    )
                else:
                    await self._verb(
                        "resume",
                        lambda tx, found: rollouts.resume(tx, found, by="x", now=self.now_wall()),
                        service.name,
                    )
        await asyncio.sleep(2.0)


def _was_ready(before: View, task: Task) -> bool:
    found = before.get(TASKS, task.owner, task.id)
    return found is not None and found.wanted is Wanted.RUN and found.is_ready


def _ready_slots(view: View, service: Service) -> set[int]:
    down = down_nodes(view)
    return {
        task.slot
        for task in view.find(TASKS, "owner", service.owner)
        if task.wanted is Wanted.RUN
        and task.is_ready
        and task.node not in down
        and task.slot <= service.wanted_replicas
    }


def _extra(view: View, service: Service, down: set[str]) -> int:
    found = _per_slot(view, service, down, service.wanted_replicas)
    return sum(max(0, count - 1) for count in found.values())


def _per_slot(view: View, service: Service, down: set[str], replicas: int) -> dict[int, int]:
    found: dict[int, int] = {}
    for task in view.find(TASKS, "owner", service.owner):
        is_alive = task.wanted is Wanted.RUN and not task.observed.state.is_over
        if is_alive and task.node not in down and task.slot <= replicas:
            found[task.slot] = found.get(task.slot, 0) + 1
    return found


def _surge(view: View, service: Service, replicas: int) -> int:
    """So many replicas may be above the wanted number."""
    going = last_deployment(view, service)
    if going is None:
        return 0
    rollout = service.policy.rollout
    parallel = max(1, rollout.max_parallel.of(replicas))
    if going.strategy is Strategy.BLUE_GREEN or rollout.keep_old or not going.base:
        return 2 * replicas
    if going.strategy is Strategy.CANARY:
        return parallel + len(held_slots(going, rollout, replicas))
    return parallel
