"""One task's life on this node: prepare, create, start, watch over, stop, remove.

A runner goes one step at a time and looks between steps whether the task is still wanted; every
step of a runtime can be repeated, so a runner that starts on something that exists (after a worker's
restart) simply goes on from there.
"""

import asyncio
import math
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from orca_common.env import Env
from orca_common.logs import get_logger
from orca_proto import worker_pb2 as pb
from orca_worker.fencing import Fencing
from orca_worker.kept import KeptOutputs
from orca_worker.last_lines import last_lines
from orca_worker.ports import Prober
from orca_worker.probing import Probing
from orca_worker.runtime.port import Container, Phase, Runtime, RuntimeAway, RuntimeRefusal

RETRY_SECONDS = 1.0
NOT_AGAIN = "it was started before, and is not there any more; a task runs once"
TOKEN = "ORCA_FENCING_TOKEN"
LOOK_AGAIN_SECONDS = 5.0
"""After an engine did not answer, if its events do not come back earlier."""
MOST_RETRY_SECONDS = 30.0

log = get_logger("task")


class TaskRunner:
    """`changed` is called whenever `status` has a new value; `account` finds who asks the registry of a
    project's image, when it is asked. `spec` None: only to be removed."""

    def __init__(
        self,
        env: Env,
        runtime: Runtime,
        prober: Prober,
        task: pb.Task,
        *,
        fencing: Fencing,
        labels: Mapping[str, str],
        account: Callable[[str, str], pb.RegistryAccount | None],
        changed: Callable[[str], None],
        kept: KeptOutputs | None = None,
    ) -> None:
        self._env = env
        self._runtime = runtime
        self._prober = prober
        self._fencing = fencing
        self._task = task
        self._labels = labels
        self._account = account
        self._changed = changed
        self._kept = kept
        self._stop_wanted = asyncio.Event()
        self._look = asyncio.Event()
        self._grace_seconds = 10.0
        self._delay_seconds = 0.0
        self._told: tuple[object, ...] = ()
        self._away = ""  # why nothing newer is known of its container
        self.image = ""
        self._image = "", ""
        self.status = pb.TaskStatus(id=task.id)

    @property
    def runtime(self) -> Runtime:
        return self._runtime

    @property
    def is_fenced(self) -> bool:
        return bool(self._task.fencing_token)

    def want_stop(self) -> None:
        self._stop_wanted.set()
        self._look.set()

    def broke(self, error: Exception) -> None:
        """`run` ended with an exception that it does not know: a fault of the worker's own."""
        reason = f"internal error of the worker: {error!r}"
        if self.is_fenced:  # it may be running, and what has failed is replaced
            self._explain(reason)
            return
        self._report(pb.TASK_STATE_FAILED, reason=reason, ended_at=self._env.now())

    def look(self) -> None:
        """Something may have happened to the container."""
        self._look.set()

    async def run(self, spec: pb.TaskSpec | None) -> None:
        """To the very end: returns when nothing of the task is left on the node."""
        if spec is not None and not self._stop_wanted.is_set():
            self._grace_seconds = spec.stop_grace_seconds
            self._delay_seconds = spec.stop_delay_seconds
            self.image = spec.image
            try:
                await self._live(self._with_token(spec))
            except RuntimeRefusal as refusal:
                log.warning("task failed", task=self._task.id, reason=refusal.reason)
                if self.is_fenced:
                    await self._end_for_certain()
                self._report(pb.TASK_STATE_FAILED, reason=refusal.reason, ended_at=self._env.now())
        await self._stop_wanted.wait()
        await self._announce()
        await self._tear_down()

    def _with_token(self, spec: pb.TaskSpec) -> pb.TaskSpec:
        if not self.is_fenced:
            return spec
        own = pb.TaskSpec()
        own.CopyFrom(spec)
        own.env[TOKEN] = str(self._task.fencing_token)
        return own

    async def _end_for_certain(self) -> None:
        """A start that has failed may have begun: what is reported as failed must not run."""
        while not self._stop_wanted.is_set():
            try:
                await self._runtime.stop(self._task.id, grace_seconds=0.0)
                return
            except RuntimeRefusal as refusal:
                self._explain(refusal.reason)
            await self._unless_stopped(asyncio.sleep(RETRY_SECONDS))

    async def _live(self, spec: pb.TaskSpec) -> None:
        wait = RETRY_SECONDS
        while True:
            try:
                container = await self._started(spec)
                break
            except RuntimeAway as away:
                # Every step can be repeated: what was done of them is found again.
                if self._stop_wanted.is_set():
                    return
                self._report(max(self.status.state, pb.TASK_STATE_PREPARING), reason=away.reason)
                await self._unless_stopped(asyncio.sleep(wait * self._env.random.uniform(0.8, 1.2)))
                wait = min(MOST_RETRY_SECONDS, wait * 2)
        if container is not None:
            await self._watch_over(container, spec)

    async def _started(self, spec: pb.TaskSpec) -> Container | None:
        """The container, started; None if it is to be stopped before it was made."""
        container = await self._runtime.inspect(self._task.id)
        if container is None and spec.lacks:
            raise RuntimeRefusal(spec.lacks)
        if spec.lacks_values and (container is None or container.phase is Phase.CREATED):
            raise RuntimeRefusal(NOT_AGAIN)
        if container is None:
            self._report(pb.TASK_STATE_PREPARING)
            account = self._account(self._task.project, spec.image)
            await self._unless_stopped(self._runtime.prepare(spec, account))
            if self._stop_wanted.is_set():
                return None
            if spec.image_only:
                self._report(pb.TASK_STATE_EXITED, ended_at=self._env.now())
                return None
            container = await self._runtime.create(self._task, spec, self._labels)
        elif container.phase is Phase.CREATED and spec.secret_env:
            # An earlier worker made it, and took what it kept in memory only with it.
            container = await self._runtime.create(self._task, spec, self._labels)
        if container.phase is Phase.CREATED and self.is_fenced:
            await self._unless_stopped(self._admitted())
        elif container.phase is Phase.RUNNING and self.is_fenced:
            await self._guarded()
        if container.phase is Phase.CREATED and not self._stop_wanted.is_set():
            container = await self._runtime.start(self._task.id)
        await self._name_image(container, spec)
        return container

    async def _name_image(self, container: Container, spec: pb.TaskSpec) -> None:
        """For the next report: whoever cannot be asked now is not needed for the task to run."""
        if not container.image:
            return
        try:
            digest = await self._runtime.digest(container.image, spec.image)
        except RuntimeRefusal as refusal:
            log.warning("the image has no digest", task=self._task.id, reason=refusal.reason)
            digest = ""
        self._image = container.image, digest

    async def _admitted(self) -> None:
        try:
            admitted = await self._fencing.admit(self._task.id, self._runtime.grip(self._task.id))
        except OSError as error:
            raise RuntimeRefusal(f"a fenced replica needs its guardian: {error}") from error
        if not admitted:
            raise RuntimeRefusal("the node's lease ended before it was started", permanent=True)

    async def _guarded(self) -> None:
        """What was found running: without a guardian it is better ended."""
        try:
            await self._fencing.keep(self._task.id, self._runtime.grip(self._task.id))
        except OSError as error:
            raise RuntimeRefusal(f"a fenced replica needs its guardian: {error}") from error

    async def _watch_over(self, container: Container, spec: pb.TaskSpec) -> None:
        """From started to ended, or until it is to be stopped. Probes are asked beside it."""
        probing = Probing(
            self._env,
            self._prober,
            self._runtime,
            spec,
            container,
            was_ready=self._task.was_ready,
            changed=lambda: self._take_probes(probing),
        )
        self._tell(probing)
        try:
            async with asyncio.TaskGroup() as group:
                asking = group.create_task(probing.run())
                try:
                    await self._until_over(probing)
                finally:
                    asking.cancel()
        except* RuntimeRefusal as refusals:
            raise refusals.exceptions[0] from None
        if probing.container.phase is Phase.EXITED:
            await self._report_exited(probing.container, probing.verdict)

    async def _until_over(self, probing: Probing) -> None:
        """Until its container has ended or vanished, or the task is to be stopped."""
        next_look = math.inf  # again, when the engine did not answer
        while not self._stop_wanted.is_set() and probing.container.phase is not Phase.EXITED:
            wait = max(0.0, next_look - self._env.monotonic())
            if not await self._looked_at_within(wait) and self._env.monotonic() < next_look:
                continue
            try:
                if probing.verdict:
                    await self._end(probing.verdict)
                found = await self._runtime.inspect(self._task.id)
            except RuntimeAway as away:
                next_look = self._env.monotonic() + LOOK_AGAIN_SECONDS
                self._away = away.reason
                self._tell(probing)
                continue
            self._away = ""
            next_look = LOOK_AGAIN_SECONDS + self._env.monotonic() if probing.verdict else math.inf
            if found is None:
                reason = "it was removed from the engine by somebody else"
                self._report(pb.TASK_STATE_EXITED, reason=reason, ended_at=self._env.now())
                return
            probing.container = found
            if found.phase is not Phase.EXITED:
                self._tell(probing)

    async def _end(self, verdict: str) -> None:
        """A probe has the last word: what it has found to be beyond help is replaced by a new task."""
        log.warning("task is ended", task=self._task.id, reason=verdict)
        try:
            await self._unless_stopped(
                self._runtime.stop(self._task.id, grace_seconds=self._grace_seconds)
            )
        except RuntimeAway:
            raise
        except RuntimeRefusal as refusal:
            log.warning("could not end it", task=self._task.id, reason=refusal.reason)

    def _take_probes(self, probing: Probing) -> None:
        self._tell(probing)
        if probing.verdict:
            self._look.set()

    def _tell(self, probing: Probing) -> None:
        """Report what is so, if that is news."""
        was_running = self.status.state == pb.TASK_STATE_RUNNING
        is_up = was_running or probing.is_ready
        state = pb.TASK_STATE_RUNNING if is_up else pb.TASK_STATE_STARTING
        reason = self._away or probing.reason
        news = (state, probing.is_ready, reason, probing.failures)
        if news == self._told:
            return
        self._told = news
        container = probing.container
        self._report(
            state,
            healthy=probing.is_ready,
            reason=reason,
            started_at=container.started_at,
            host_port=container.host_port,
            container=container.id,
            probes=probing.results,
        )

    def _explain(self, reason: str) -> None:
        """Say why nothing newer is known; the state stays what it was."""
        if reason != self.status.reason:
            self._report(self.status.state, healthy=self.status.healthy, reason=reason)

    async def _looked_at_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(None if seconds == math.inf else seconds):
                await self._look.wait()
        except TimeoutError:
            return False
        self._look.clear()
        return True

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        """Do the work, but let go of it when the task is to be stopped."""
        try:
            async with asyncio.TaskGroup() as group:
                working = group.create_task(work)
                waiting = group.create_task(self._stop_wanted.wait())
                await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
                working.cancel()
                waiting.cancel()
        except* RuntimeRefusal as refusals:
            raise refusals.exceptions[0] from None

    async def _announce(self) -> None:
        """What is ready goes on for a while, so that whoever sends it work hears first that it leaves."""
        if self.status.healthy and self._delay_seconds:
            self._report(pb.TASK_STATE_STOPPING)
            await asyncio.sleep(self._delay_seconds)

    async def _tear_down(self) -> None:
        wait = RETRY_SECONDS
        while True:
            try:
                if self.status.state < pb.TASK_STATE_EXITED:
                    self._report(pb.TASK_STATE_STOPPING)
                await self._runtime.stop(self._task.id, grace_seconds=self._grace_seconds)
                if self._kept is not None:
                    await self._kept.keep(self._runtime, self._task.id)
                await self._runtime.remove(self._task.id)
                await self._fencing.leave(self._task.id)
                break
            except (RuntimeRefusal, OSError) as refusal:
                log.warning(
                    "could not remove; trying again",
                    task=self._task.id,
                    reason=str(refusal),
                    seconds=wait,
                )
                await asyncio.sleep(wait * self._env.random.uniform(0.8, 1.2))
                wait = min(MOST_RETRY_SECONDS, wait * 2)
        self._report(pb.TASK_STATE_GONE)

    async def _report_exited(self, container: Container, verdict: str) -> None:
        reason = verdict
        if container.oom_killed:
            reason = "was killed: it used more memory than its limit"
        lines = await last_lines(self._runtime, self._task.id)
        self._report(
            pb.TASK_STATE_EXITED,
            reason=reason,
            exit_code=container.exit_code,
            oom_killed=container.oom_killed,
            started_at=container.started_at,
            ended_at=container.ended_at,
            container=container.id,
            last_lines=lines,
        )

    def _report(self, state: "pb.TaskState.ValueType", **fields: Any) -> None:
        """Fields that are not given keep their value, but for the health and the reason."""
        kept = pb.TaskStatus()
        kept.CopyFrom(self.status)
        kept.state = state
        kept.image_id, kept.image_digest = self._image
        kept.healthy = False
        kept.reason = ""
        kept.last_lines[:] = fields.pop("last_lines", kept.last_lines)
        for name, value in fields.items():
            setattr(kept, name, value)
        self.status = kept
        self._changed(self._task.id)


def status_of(container: Container) -> pb.TaskStatus:
    """What can be said of a container before its spec is known (at the first connect)."""
    states = {
        Phase.CREATED: pb.TASK_STATE_PREPARING,
        Phase.RUNNING: pb.TASK_STATE_STARTING,
        Phase.EXITED: pb.TASK_STATE_EXITED,
    }
    return pb.TaskStatus(
        id=container.task,
        state=states[container.phase],
        exit_code=container.exit_code,
        oom_killed=container.oom_killed,
        started_at=container.started_at,
        ended_at=container.ended_at,
        host_port=container.host_port,
        container=container.id,
        image_id=container.image,
    )
