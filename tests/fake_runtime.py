"""A runtime in memory and in the loop's time, for simulations; the contract tests hold for it too.

The object stands for the machine: it outlives the worker that uses it. Commands are names of what a
program would do, see `FakeRuntime._behave`; whatever it does not know runs until it is stopped.
"""

import asyncio
import builtins
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from orca_common.env import Env
from orca_proto.worker_pb2 import RegistryAccount, Resources, Task, TaskSpec
from orca_worker.runtime.port import Container, Phase, RuntimeAway, RuntimeRefusal, Swept

FIRST_PORT = 40_000


@dataclass(slots=True)
class Thing:
    """One container on the machine."""

    container: Container
    spec: TaskSpec
    task: Task
    output: list[tuple[float, bytes]] = field(default_factory=list)  # when, which whole lines
    printed: asyncio.Event = field(default_factory=asyncio.Event)
    ignores_term: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    timer: asyncio.TimerHandle | None = None


@dataclass(slots=True)
class Machine:
    """What several fake runtimes share, as two workers share an engine."""

    things: dict[str, Thing] = field(default_factory=dict)
    images: set[str] | None = None  # those here already; None: every image is
    registry: dict[str, str] = field(default_factory=dict)  # image -> why it cannot be pulled
    accounts: list[tuple[str, RegistryAccount | None]] = field(default_factory=list)  # as prepared
    next_port: int = FIRST_PORT
    digests: dict[str, str] = field(default_factory=dict)  # image -> what its registry has now
    watches: dict["asyncio.Queue[str | RuntimeRefusal]", None] = field(default_factory=dict)


class FakeRuntime:
    """Runs nothing, keeps every promise of the port; `history` tells what was asked and when."""

    def __init__(
        self,
        env: Env,
        *,
        cluster: str = "test",
        node: str = "n1",
        name: str = "docker",
        start_seconds: float = 0.0,
        pull_seconds: float = 0.0,
        machine: Machine | None = None,
        missing_commands: Iterable[str] = ("no-such-command",),
    ) -> None:
        self._env = env
        self._name = name
        self._identity = {"orca.cluster": cluster, "orca.node": node}
        self.start_seconds = start_seconds
        self.pull_seconds = pull_seconds
        self.machine = machine or Machine()
        self.missing_commands = set(missing_commands)
        self.history: list[tuple[float, str, str]] = []
        self.following = 0
        self.taken = 0
        self.away = ""  # why no verb is answered

    @property
    def name(self) -> str:
        return self._name

    async def prepare(self, spec: TaskSpec, account: RegistryAccount | None = None) -> None:
        self._note("prepare", spec.image)
        self.machine.accounts.append((spec.image, account))
        here = self.machine.images is None or spec.image in self.machine.images
        if here and spec.pull_policy != "always":
            return
        if spec.pull_policy == "never":
            raise RuntimeRefusal(f'image {spec.image} is not on this node, and "never" is pulled')
        await asyncio.sleep(self.pull_seconds)
        if reason := self.machine.registry.get(spec.image):
            raise RuntimeRefusal(reason)
        if self.machine.images is not None:
            self.machine.images.add(spec.image)

    async def digest(self, image_id: str, image: str) -> str:
        self._answers()
        return image_id if image_id.startswith("sha256:") else ""

    async def create(self, task: Task, spec: TaskSpec, labels: Mapping[str, str]) -> Container:
        self._note("create", task.id)
        if task.id in self.machine.things:
            return self.machine.things[task.id].container
        if self.machine.images is not None and spec.image not in self.machine.images:
            raise RuntimeRefusal(f"image {spec.image} not found")
        port = spec.host_port
        if spec.port and not port:
            port, self.machine.next_port = self.machine.next_port, self.machine.next_port + 1
        container = Container(
            task=task.id,
            id=f"fake-{task.id}",
            phase=Phase.CREATED,
            exit_code=0,
            oom_killed=False,
            started_at=0.0,
            ended_at=0.0,
            host_port=port,
            labels=dict(labels),
        )
        self.machine.things[task.id] = Thing(container, spec, task)
        return container

    async def start(self, task_id: str) -> Container:
        self._note("start", task_id)
        thing = self._known(task_id)
        if thing.container.phase is not Phase.CREATED:
            return thing.container
        await asyncio.sleep(self.start_seconds)
        if self._known(task_id) is not thing or thing.container.phase is not Phase.CREATED:
            return self._known(task_id).container
        spec = thing.spec
        if spec.command and spec.command[0] in self.missing_commands:
            raise RuntimeRefusal(f"command not found: {spec.command[0]}", permanent=True)
        if spec.host_port and self._is_taken(spec.host_port):
            raise RuntimeRefusal(f"port {spec.host_port} is already in use on this node")
        image = spec.image.partition("@")[2] or self.machine.digests.get(spec.image, "local")
        thing.container = replace(
            thing.container, phase=Phase.RUNNING, started_at=self._env.now(), image=image
        )
        self._behave(task_id, thing)
        return thing.container

    async def stop(self, task_id: str, *, grace_seconds: float) -> None:
        self._note("stop", task_id)
        thing = self.machine.things.get(task_id)
        if thing is None or thing.container.phase is not Phase.RUNNING:
            return
        if not thing.ignores_term:
            self._end(task_id, 143)
            return
        try:
            async with asyncio.timeout(grace_seconds):
                await thing.ended.wait()
        except TimeoutError:
            self._end(task_id, 137)

    async def remove(self, task_id: str) -> None:
        self._note("remove", task_id)
        self._end(task_id, 137)
        self.machine.things.pop(task_id, None)

    async def inspect(self, task_id: str) -> Container | None:
        self._answers()
        thing = self.machine.things.get(task_id)
        return thing.container if thing is not None and self._is_own(thing) else None

    async def list(self) -> list[Container]:
        self._note("list", "")
        return [thing.container for thing in self.machine.things.values() if self._is_own(thing)]

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[AsyncIterator[str]]:
        self._answers()
        queue: asyncio.Queue[str | RuntimeRefusal] = asyncio.Queue()
        self.machine.watches[queue] = None
        try:
            yield self._ended_own(queue)
        finally:
            self.machine.watches.pop(queue, None)

    async def logs(
        self, task_id: str, *, tail: int, since: float = 0.0, follow: bool = False
    ) -> AsyncGenerator[bytes, None]:
        self._note("logs", task_id)
        thing = self._known(task_id)
        written = b"".join(text for at, text in thing.output if at >= since)
        lines = written.splitlines(keepends=True)
        given = len(thing.output)
        self.following += follow
        try:
            if chosen := b"".join(lines[-tail:] if tail > 0 else []):
                yield chosen
            while follow:
                if given < len(thing.output):
                    given += 1
                    self.taken += 1
                    yield thing.output[given - 1][1]
                elif thing.ended.is_set():
                    return
                else:
                    thing.printed.clear()
                    await thing.printed.wait()
        finally:
            self.following -= follow

    async def execute(self, task_id: str, command: Sequence[str], *, seconds: float) -> int:
        self._answers()
        if self._known(task_id).container.phase is not Phase.RUNNING:
            raise RuntimeRefusal(f"task {task_id} does not run")
        match builtins.list(command):
            case ["exit", code, *after]:
                async with asyncio.timeout(seconds):
                    await asyncio.sleep(float(after[0]) if after else 0.0)
                return int(code)
            case ["sleep", length]:
                async with asyncio.timeout(seconds):
                    await asyncio.sleep(float(length))
                return 0
            case [name, *_] if name in self.missing_commands:
                raise RuntimeRefusal(f"command not found: {name}", permanent=True)
            case _:
                return 0

    def grip(self, task_id: str) -> Mapping[str, Any]:
        return {"runtime": self._name}

    async def used(self) -> Resources:
        self._answers()
        running = [
            thing.spec.limits
            for thing in self.machine.things.values()
            if self._is_own(thing) and thing.container.phase is Phase.RUNNING
        ]
        return Resources(
            memory_bytes=sum(limits.memory_bytes for limits in running),
            cpu_millis=sum(limits.cpu_millis for limits in running),
        )

    async def sweep(self, wanted: Collection[str]) -> Swept:
        self._answers()
        return Swept()

    async def close(self) -> None:
        self._note("close", "")

    def crash(self, task_id: str, exit_code: int) -> None:
        """The program ends by itself, now."""
        self._note("crash", task_id)
        self._end(task_id, exit_code)

    def write(self, task_id: str, output: bytes) -> None:
        """The program prints something."""
        self._print(self._known(task_id), output)

    def lose_all(self) -> None:
        """The machine reboots: what ran is found ended, and watchers lose the engine."""
        self._note("lose_all", "")
        for task_id in builtins.list(self.machine.things):
            self._end(task_id, 137)
        self.lose_watchers()

    def lose_watchers(self) -> None:
        """The engine restarts: its streams break, its containers run on."""
        for queue in self.machine.watches:
            queue.put_nowait(RuntimeRefusal("the engine was lost"))

    def _behave(self, task_id: str, thing: Thing) -> None:
        """exit CODE [SECONDS] | sleep SECONDS | print TEXT | tell SECONDS LINE… | env |
        ignore-term | anything else."""
        match builtins.list(thing.spec.command):
            case ["exit", code, *after]:
                self._end_later(task_id, int(code), float(after[0]) if after else 0.0)
            case ["sleep", seconds]:
                self._end_later(task_id, 0, float(seconds))
            case ["tell", seconds, *lines]:
                loop = asyncio.get_running_loop()
                for number, line in enumerate(lines, start=1):
                    text = f"{line}\n".encode()
                    loop.call_later(number * float(seconds), self._print, thing, text)
            case ["print", text]:
                self._print(thing, text.encode())
                self._end_later(task_id, 0, 0.0)
            case ["env"]:
                env = dict(thing.spec.env)
                if thing.container.host_port:
                    env["PORT"] = str(thing.container.host_port)
                self._print(thing, "".join(f"{key}={env[key]}\n" for key in env).encode())
                self._end_later(task_id, 0, 0.0)
            case ["ignore-term"]:
                thing.ignores_term = True

    def _print(self, thing: Thing, text: bytes) -> None:
        thing.output.append((self._env.now(), text))
        thing.printed.set()

    def _end_later(self, task_id: str, exit_code: int, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        thing = self.machine.things[task_id]
        thing.timer = loop.call_later(seconds, self._end, task_id, exit_code)

    def _end(self, task_id: str, exit_code: int) -> None:
        thing = self.machine.things.get(task_id)
        if thing is None or thing.container.phase is not Phase.RUNNING:
            return
        if thing.timer is not None:
            thing.timer.cancel()
        thing.container = replace(
            thing.container, phase=Phase.EXITED, exit_code=exit_code, ended_at=self._env.now()
        )
        thing.ended.set()
        thing.printed.set()
        for queue in self.machine.watches:
            queue.put_nowait(task_id)

    async def _ended_own(self, queue: "asyncio.Queue[str | RuntimeRefusal]") -> AsyncIterator[str]:
        while True:
            item = await queue.get()
            if isinstance(item, RuntimeRefusal):
                raise item
            thing = self.machine.things.get(item)
            if thing is None or self._is_own(thing):
                yield item

    def _known(self, task_id: str) -> Thing:
        thing = self.machine.things.get(task_id)
        if thing is None:
            raise RuntimeRefusal(f"there is no container for task {task_id}")
        return thing

    def _is_taken(self, port: int) -> bool:
        return any(
            thing.container.phase is Phase.RUNNING and thing.container.host_port == port
            for thing in self.machine.things.values()
        )

    def _is_own(self, thing: Thing) -> bool:
        return self._identity.items() <= thing.container.labels.items()

    def _answers(self) -> None:
        if self.away:
            raise RuntimeAway(self.away)

    def _note(self, verb: str, task: str) -> None:
        if verb in ("prepare", "create", "start", "stop", "remove", "list", "logs"):
            self._answers()
        self.history.append((self._env.now(), verb, task))
