"""The node's side of the contract: makes what runs here equal to the master's newest list.

Holds one runner per task. Knows nothing of gRPC or any engine; `session` connects it to a master.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing

from orca_common.env import Env
from orca_common.logs import get_logger
from orca_proto import worker_pb2 as pb
from orca_proto.images import host_of
from orca_worker.fencing import Fencing
from orca_worker.kept import KeptOutputs
from orca_worker.ports import Prober
from orca_worker.runtime.port import Container, Phase, Runtime, RuntimeAway, RuntimeRefusal
from orca_worker.specs import Specs
from orca_worker.task import TaskRunner, status_of

WATCH_RETRY_SECONDS = 1.0
BROKEN_RETRY_SECONDS = 1.0
SWEEP_SECONDS = 60.0

log = get_logger("agent")

Adopted = tuple[Runtime, Container]


class Agent:
    """`runtimes` by name, strongest first. Keep `run` running; it ends only by cancellation."""

    def __init__(
        self,
        env: Env,
        runtimes: Mapping[str, Runtime],
        prober: Prober,
        fencing: Fencing,
        *,
        cluster: str,
        node: str,
        kept: KeptOutputs | None = None,
        specs: Specs | None = None,
    ) -> None:
        self._env = env
        self._kept = kept
        self._runtimes = runtimes
        self._prober = prober
        self.fencing = fencing
        self._cluster = cluster
        self._node = node
        self._runners: dict[str, TaskRunner] = {}
        self.specs = specs or Specs(env)
        self._accounts: dict[tuple[str, str], pb.RegistryAccount] = {}  # in memory only
        self._unowned: dict[str, Adopted] = {}
        self._waiting: dict[str, tuple[pb.Task, Adopted | None]] = {}  # for its spec
        self._unacknowledged: dict[str, tuple[int, pb.TaskState.ValueType]] = {}
        self._dirty: dict[str, None] = {}
        self._dirty_event = asyncio.Event()
        self._seen = (0, 0, 0)
        self._listed: set[str] = set()
        self._group: asyncio.TaskGroup | None = None
        self._running = asyncio.Event()

    @property
    def runtime_names(self) -> list[str]:
        return list(self._runtimes)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            await self.specs.load()
            self._running.set()
            group.create_task(self.specs.run())
            group.create_task(self.fencing.run())
            for runtime in self._runtimes.values():
                group.create_task(self._watch(runtime))
                group.create_task(self._tidy(runtime))

    async def inventory(self) -> list[pb.TaskStatus]:
        """Everything that exists on the node: for Hello. Raises RuntimeRefusal."""
        found: list[Adopted] = []
        for runtime in self._runtimes.values():
            try:
                found += [(runtime, container) for container in await runtime.list()]
                self._listed.add(runtime.name)
            except RuntimeAway:
                # Whatever runs there has a runner, but for a worker that has just begun.
                if runtime.name not in self._listed:
                    raise
                found += [each for each in self._not_run().values() if each[0] is runtime]
        # Nothing is awaited from here on: a status that changed meanwhile would be told by nobody.
        statuses = {id: runner.status for id, runner in self._runners.items()}
        self._unowned.clear()
        self._waiting.clear()
        for runtime, container in found:
            if container.task not in statuses:
                self._unowned[container.task] = (runtime, container)
                statuses[container.task] = status_of(container)
        self._dirty.clear()
        self._unacknowledged.clear()
        self.said(0, statuses.values())
        return list(statuses.values())

    async def apply(self, assignments: pb.Assignments) -> None:
        """Take the newest complete list. One that is older than what was seen is refused."""
        revision = assignments.revision
        stamp = (revision.epoch, revision.term, revision.version)
        if stamp < self._seen:
            log.warning("older list refused", seen=self._seen, got=stamp)
            return
        if not assignments.tasks and not assignments.confirmed_empty and self._has_tasks:
            log.warning("an empty list is not obeyed: it was not confirmed", got=stamp)
            return
        self._seen = stamp
        await self._running.wait()
        self.specs.hold(assignments.specs)
        self._unowned, self._waiting = self._not_run(), {}
        self._accounts = {(each.project, each.host): each for each in assignments.accounts}
        listed = {task.id for task in assignments.tasks}
        for task in assignments.tasks:
            self._apply_one(task)
        for task_id, runner in self._runners.items():
            if task_id not in listed:
                runner.want_stop()
        for task_id, (runtime, _) in list(self._unowned.items()):
            if task_id not in listed:
                self._remove_unknown(runtime, task_id)
        self._unowned.clear()
        self.specs.let_go({task.spec_hash for task in assignments.tasks})
        self.specs.lack([task.spec_hash for task, _ in self._waiting.values()])

    def take_specs(self, answer: pb.Specs) -> None:
        """What was asked for. What is still unknown is so because a newer list is on its way."""
        fit = {hash: spec for hash, spec in answer.specs.items() if not spec.lacks}
        self.specs.hold(fit)  # the others may have another answer the next time
        self.specs.answered()
        for task_id, (task, adopted) in list(self._waiting.items()):
            if task.spec_hash in answer.specs:
                del self._waiting[task_id]
                self._begin(task, adopted, answer.specs[task.spec_hash])

    @property
    def _has_tasks(self) -> bool:
        return bool(self._runners or self._unowned or self._waiting)

    def _not_run(self) -> dict[str, Adopted]:
        """What was found here and has no runner yet."""
        waiting = {id: adopted for id, (_, adopted) in self._waiting.items() if adopted is not None}
        return self._unowned | waiting

    async def changes(self) -> list[pb.TaskStatus]:
        """Wait for statuses that have changed since the last call."""
        while not self._dirty:
            self._dirty_event.clear()
            await self._dirty_event.wait()
        ids, self._dirty = list(self._dirty), {}
        return [self._runners[id].status for id in ids if id in self._runners]

    def said(self, number: int, statuses: Iterable[pb.TaskStatus]) -> None:
        """These are on their way to the master, in the report with this number; 0: in Hello."""
        for status in statuses:
            self._unacknowledged[status.id] = number, status.state

    def taken(self, number: int) -> None:
        """The master has committed all up to this report: tasks whose end was in it are forgotten."""
        for task_id, (said_in, state) in list(self._unacknowledged.items()):
            if said_in <= number:
                del self._unacknowledged[task_id]
                if state == pb.TASK_STATE_GONE:
                    self._runners.pop(task_id, None)

    def repeat_all(self) -> None:
        """Have every status reported again, to a master that acknowledges none."""
        for task_id in self._runners:
            self._mark_dirty(task_id)

    async def used(self) -> pb.Resources:
        """What all tasks of the node use, as far as the runtimes know."""
        total = pb.Resources()
        for runtime in self._runtimes.values():
            try:
                used = await runtime.used()
            except RuntimeRefusal:  # the beat goes on without an engine
                continue
            total.memory_bytes += used.memory_bytes
            total.cpu_millis += used.cpu_millis
        return total

    async def logs(
        self, task_id: str, *, tail: int, since: float, follow: bool
    ) -> AsyncGenerator[bytes, None]:
        """See `Runtime.logs`. Raises RuntimeRefusal for a task that has nothing here."""
        for runtime in self._runtimes.values():
            if await runtime.inspect(task_id) is not None:
                found = runtime.logs(task_id, tail=tail, since=since, follow=follow)
                async with aclosing(found) as chunks:
                    async for chunk in chunks:
                        yield chunk
                return
        if self._kept is None:
            raise RuntimeRefusal(f"there is nothing of task {task_id} on this node")
        async with aclosing(self._kept.read(task_id, tail=tail)) as chunks:
            async for chunk in chunks:
                yield chunk

    def _apply_one(self, task: pb.Task) -> None:
        runner = self._runners.get(task.id)
        if runner is None:
            adopted = self._unowned.pop(task.id, None)
            is_to_stop = task.wanted == pb.WANTED_STOP
            if task.has_ended and adopted is None and not is_to_stop:
                return  # it has disappeared from here, and a task runs once
            is_begun = adopted is not None and adopted[1].phase is not Phase.CREATED
            spec = self.specs.held(task.spec_hash, for_start=not is_begun and not is_to_stop)
            if spec is None:
                self._waiting[task.id] = task, adopted
            else:
                self._begin(task, adopted, spec)
        elif task.wanted == pb.WANTED_STOP:
            runner.want_stop()

    def _begin(self, task: pb.Task, adopted: Adopted | None, spec: pb.TaskSpec) -> None:
        runtime = self._runtimes.get(spec.runtime) or (adopted[0] if adopted else None)
        if runtime is None:
            log.error("no such runtime here", task=task.id, runtime=spec.runtime)
            return
        runner = self._start(runtime, task, spec)
        if task.wanted == pb.WANTED_STOP:
            runner.want_stop()

    def _start(self, runtime: Runtime, task: pb.Task, spec: pb.TaskSpec | None) -> TaskRunner:
        assert self._group is not None, "the agent is not running"
        runner = TaskRunner(
            self._env,
            runtime,
            self._prober,
            task,
            fencing=self.fencing,
            labels=self._labels(task),
            account=self._account,
            changed=self._mark_dirty,
            kept=self._kept,
        )
        self._runners[task.id] = runner
        self._group.create_task(self._run(runner, task.id, spec), name=f"task {task.id}")
        return runner

    async def _run(self, runner: TaskRunner, task_id: str, spec: pb.TaskSpec | None) -> None:
        """To the runner's end. One that breaks is still stopped and removed when that is wanted."""
        while True:
            try:
                await runner.run(spec)
                return
            except Exception as error:  # one broken task must not stop the others
                log.error("task's runner broke", task=task_id, exc_info=error)
                runner.broke(error)
                spec = spec if runner.is_fenced else None
            await asyncio.sleep(BROKEN_RETRY_SECONDS)

    def _remove_unknown(self, runtime: Runtime, task_id: str) -> None:
        log.info("removing what no master wants here", task=task_id)
        runner = self._start(runtime, pb.Task(id=task_id), None)
        runner.want_stop()

    def _mark_dirty(self, task_id: str) -> None:
        self._dirty[task_id] = None
        self._dirty_event.set()

    def _account(self, project: str, image: str) -> pb.RegistryAccount | None:
        """As the newest list says."""
        return self._accounts.get((project, host_of(image)))

    def _labels(self, task: pb.Task) -> dict[str, str]:
        return {
            "orca.cluster": self._cluster,
            "orca.node": self._node,
            "orca.project": task.project,
            "orca.service": task.service,
            "orca.revision": str(task.revision),
            "orca.task": task.id,
        }

    async def _tidy(self, runtime: Runtime) -> None:
        """Now and then: remove what no list named, and make room."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS * self._env.random.uniform(0.8, 1.2))
            try:
                for container in await runtime.list():
                    known = container.task in self._runners or container.task in self._not_run()
                    if not known and self._seen > (0, 0, 0):
                        self._remove_unknown(runtime, container.task)
                swept = await runtime.sweep({r.image for r in self._runners.values() if r.image})
            except RuntimeRefusal as refusal:
                log.warning("not tidied", runtime=runtime.name, reason=refusal.reason)
                continue
            if swept.images:
                log.info("made room", images=swept.images, bytes=swept.bytes)

    def _look_at_all(self, runtime: Runtime) -> None:
        for runner in self._runners.values():
            if runner.runtime is runtime:
                runner.look()

    async def _watch(self, runtime: Runtime) -> None:
        """Tell runners when their container ends; look at all of them whenever events were lost."""
        while True:
            try:
                async with runtime.watch() as ended:
                    self._look_at_all(runtime)
                    async for task_id in ended:
                        if task_id in self._runners:
                            self._runners[task_id].look()
            except RuntimeRefusal as refusal:
                log.warning("events lost", runtime=runtime.name, reason=refusal.reason)
                self._look_at_all(runtime)  # those that cannot be looked at say so
            await asyncio.sleep(WATCH_RETRY_SECONDS * self._env.random.uniform(0.8, 1.2))
