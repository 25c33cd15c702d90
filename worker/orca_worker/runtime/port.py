"""What a worker needs of something that can run tasks: a container engine or plain processes.

The same contract tests (`tests/contract/`) hold for every runtime, the tests' fake included. A
runtime keeps no truth of its own: what exists is asked of the engine (or the folder) each time, by
exact labels, so that a restarted worker finds everything again.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from orca_proto.worker_pb2 import RegistryAccount, Resources, Task, TaskSpec


class RuntimeRefusal(Exception):
    """The runtime cannot do what it was asked; the text is the engine's own reason, for people.

    `permanent` says that trying the same again cannot help (a malformed command, say).
    """

    def __init__(self, reason: str, *, permanent: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.permanent = permanent


class RuntimeAway(RuntimeRefusal):
    """The engine does not answer: nothing is known of what runs, and the same may be tried again."""


class Phase(StrEnum):
    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True, slots=True)
class Container:
    """One thing that exists on the node for one task, as the runtime sees it now.

    Times are Unix seconds (0.0: not yet). `host_port` is the node's port that reaches the spec's
    `port` (0: none), `host_address` where this node reaches that; `address` where all of its ports
    are reached from the node ("": they are not).
    `image` is the runtime's id of its image ("": none, or it was not started yet).
    `labels` are the identity labels that `create` was given, read back.
    """

    task: str
    id: str
    phase: Phase
    exit_code: int
    oom_killed: bool
    started_at: float
    ended_at: float
    host_port: int
    labels: Mapping[str, str]
    address: str = ""
    image: str = ""
    host_address: str = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Swept:
    """What was removed for room."""

    images: int = 0
    bytes: int = 0


class Runtime(Protocol):
    """All verbs are safe to repeat, and may be called for different tasks at the same time.

    Every verb but `watch` and a `logs` that follows ends within a bounded time of its own. Raised:
    RuntimeRefusal.
    """

    @property
    def name(self) -> str:
        """The word used in `TaskSpec.runtime`."""
        ...

    async def prepare(self, spec: TaskSpec, account: RegistryAccount | None = None) -> None:
        """Make the image available as `pull_policy` says. Nothing to do for a plain process.

        `account`: who asks its registry; None: whoever the node's own configuration says.
        """
        ...

    async def create(self, task: Task, spec: TaskSpec, labels: Mapping[str, str]) -> Container:
        """Make the container without starting it. If it exists already, return it as it is."""
        ...

    async def digest(self, image_id: str, image: str) -> str:
        """What the registry of `image`, as a spec names it, calls the image with this id: `sha256:…`.

        Empty for what came from no registry.
        """
        ...

    async def start(self, task_id: str) -> Container:
        """Start a created container and say how it is reached. Already running: nothing."""
        ...

    async def stop(self, task_id: str, *, grace_seconds: float) -> None:
        """SIGTERM, wait up to the grace, SIGKILL; returns when it has ended. Unknown: nothing."""
        ...

    async def remove(self, task_id: str) -> None:
        """Remove every trace, running or not. Unknown: nothing."""
        ...

    async def inspect(self, task_id: str) -> Container | None:
        """The container of one task, or None."""
        ...

    async def list(self) -> list[Container]:
        """Everything of this node in this cluster, in any phase, whoever started it."""
        ...

    def watch(self) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """Ids of tasks whose container has just ended, from the moment the context is entered.

        An id may come more than once or for something already seen: it means "look". The iterator
        raises RuntimeRefusal when the engine is lost; the caller lists again and watches again.
        """
        ...

    def logs(
        self, task_id: str, *, tail: int, since: float = 0.0, follow: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """The last `tail` lines of output, both streams in order, as chunks of whole lines.

        Of these, only what was written at `since` (Unix seconds) or later, or a little more than
        that. `follow` goes on with what is written later, until the task has ended; it holds
        neither a thread nor a turn while nothing comes.
        Works while it runs and after it ended, until `remove`. Unknown task: RuntimeRefusal.
        """
        ...

    async def execute(self, task_id: str, command: Sequence[str], *, seconds: float) -> int:
        """Run a command inside a running task, as it runs itself: environment, folder, user, limits.

        Its exit code; its output is dropped. Raises TimeoutError when it has not ended in time, and
        RuntimeRefusal when it cannot be started. One that does not end is ended; while that is not so, no
        other one is started in the task.
        """
        ...

    def grip(self, task_id: str) -> Mapping[str, Any]:
        """How the node's guardian ends the task without this worker; see `guardian`."""
        ...

    async def used(self) -> Resources:
        """What all of this node's running tasks use together, as far as it is cheaply known."""
        ...

    async def sweep(self, wanted: Collection[str]) -> Swept:
        """Remove what nothing needs; of images none that is in `wanted`, or that any container has."""
        ...

    async def close(self) -> None:
        """Let go of connections. What runs goes on running."""
        ...
