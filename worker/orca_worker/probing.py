"""The probes of one running task: asked beside each other, each one question at a time.

The startup probe first; once it has passed, the readiness probe; the liveness probe once the task was
ready. It says what is so and does nothing about it: `task` reports, and ends what has failed.
"""

import asyncio
from collections.abc import Callable

from orca_common.env import Env
from orca_proto import worker_pb2 as pb
from orca_worker.checks import Check, Kind
from orca_worker.ports import Prober
from orca_worker.runtime.port import Container, Runtime, RuntimeAway, RuntimeRefusal

JITTER = 0.1
"""Of each wait, up and down: what starts together is not asked together for ever."""


class Probing:
    """`changed` is called after every answer. `was_ready`: a worker before this one has seen it ready."""

    def __init__(
        self,
        env: Env,
        prober: Prober,
        runtime: Runtime,
        spec: pb.TaskSpec,
        container: Container,
        *,
        was_ready: bool,
        changed: Callable[[], None],
    ) -> None:
        self._env = env
        self._prober = prober
        self._runtime = runtime
        self._port = spec.port
        self._changed = changed
        self.container = container
        age = env.now() - container.started_at if container.started_at else 0.0
        given = (
            (Kind.STARTUP, spec.HasField("startup") and not was_ready, spec.startup),
            (Kind.READINESS, spec.HasField("readiness"), spec.readiness),
            (Kind.LIVENESS, spec.HasField("liveness"), spec.liveness),
        )
        self._checks = {
            kind: Check(kind, probe, 0.0) for kind, is_there, probe in given if is_there
        }
        self._delays = {
            kind: max(0.0, check.probe.delay_seconds - max(0.0, age))
            for kind, check in self._checks.items()
        }
        if was_ready and (readiness := self._checks.get(Kind.READINESS)):
            readiness.is_passing, readiness.early = True, False
        self._was_ready = asyncio.Event()
        if self.is_ready:
            self._was_ready.set()

    @property
    def is_ready(self) -> bool:
        """Whether it is well, as far as anybody has asked."""
        startup, readiness = self._checks.get(Kind.STARTUP), self._checks.get(Kind.READINESS)
        return (
            (startup is None or startup.is_passing)
            and (readiness is None or readiness.is_passing)
            and not self.verdict
        )

    @property
    def verdict(self) -> str:
        """Why the task is to end; empty: it is not."""
        deadly = (self._checks.get(Kind.STARTUP), self._checks.get(Kind.LIVENESS))
        return next((c.complaint for c in deadly if c is not None and c.has_failed), "")

    @property
    def reason(self) -> str:
        """Why it is not ready; empty: it is."""
        if self.is_ready:
            return ""
        return self.verdict or next((c.complaint for c in self._checks.values() if c.complaint), "")

    @property
    def failures(self) -> tuple[str, ...]:
        """What is wrong with each, also where it has no consequence yet; not how often."""
        return tuple(check.failure for check in self._checks.values())

    @property
    def results(self) -> str:
        """The last answer to each."""
        return "; ".join(check.result for check in self._checks.values() if check.result)

    async def run(self) -> None:
        """Ask until cancelled, or until there is nothing more to ask."""
        startup = self._checks.get(Kind.STARTUP)
        if startup is not None:
            await self._ask(startup)
            if startup.has_failed:
                return
        async with asyncio.TaskGroup() as group:
            for kind in (Kind.READINESS, Kind.LIVENESS):
                if kind in self._checks:
                    group.create_task(self._ask(self._checks[kind]))

    async def _ask(self, check: Check) -> None:
        if check.kind is Kind.LIVENESS:
            await self._was_ready.wait()
            check.early, check.is_passing = False, True
        await asyncio.sleep(self._delays[check.kind])
        check.began_at = self._env.monotonic()
        while not self._is_done(check):
            spread = self._env.random.uniform(1 - JITTER, 1 + JITTER)
            await asyncio.sleep(check.wait_seconds * spread)
            try:
                failure = await self._answer(check.probe)
            except RuntimeAway:
                continue  # the engine's trouble says nothing about the task
            check.take(failure, self._env.monotonic())
            if self.is_ready:
                self._was_ready.set()
            self._changed()

    def _is_done(self, check: Check) -> bool:
        if check.kind is Kind.READINESS:
            return False
        return check.has_failed or (check.kind is Kind.STARTUP and check.is_passing)

    async def _answer(self, probe: pb.Probe) -> str | None:
        """None, or what is wrong. Raises RuntimeAway."""
        if not probe.command:
            host, port = self._where(probe)
            if not host:
                return f"port {probe.port} of the container cannot be reached from this node"
            return await self._prober.check(probe, host, port)
        try:
            code = await self._runtime.execute(
                self.container.task, probe.command, seconds=probe.timeout_seconds
            )
        except TimeoutError:
            return f"did not end within {probe.timeout_seconds:g} s"
        except RuntimeAway:
            raise
        except RuntimeRefusal as refusal:
            return refusal.reason
        return f"exited with code {code}" if code else None

    def _where(self, probe: pb.Probe) -> tuple[str, int]:
        """The service's port as it is published on the node; another one where the task itself is."""
        if probe.port == self._port:
            return self.container.host_address, self.container.host_port
        return self.container.address, probe.port
