"""Tasks as containers of a Docker engine (20.10 and up), or of what speaks its API.

Only the low-level client is used: one list call for any number of containers, and an inspect only
for what the list does not say. Ids and facts that cannot change (which engine id a task has, how an
ended container ended) are remembered to save round trips; all else is asked each time.
"""

import asyncio
import builtins
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import docker

from orca_common.env import Env
from orca_proto.worker_pb2 import RegistryAccount, Resources, Task, TaskSpec
from orca_worker.runtime import cgroups
from orca_worker.runtime.docker import following
from orca_worker.runtime.docker import spec as specs
from orca_worker.runtime.docker.access import Access
from orca_worker.runtime.docker.cleaning import Cleaning, DiskLimits
from orca_worker.runtime.docker.credentials import Credentials
from orca_worker.runtime.docker.engine import Engine, probe
from orca_worker.runtime.docker.errors import Conflict, NotFound
from orca_worker.runtime.docker.executing import Executing
from orca_worker.runtime.docker.networks import Networks, is_of_network
from orca_worker.runtime.docker.pull import Images, PullLimits
from orca_worker.runtime.docker.streams import Closable, EndedFeed, frames, open_stream
from orca_worker.runtime.kernel_log import killed_for_memory
from orca_worker.runtime.lines import whole_lines
from orca_worker.runtime.meter import Meter
from orca_worker.runtime.port import Container, Phase, RuntimeRefusal, Swept
from orca_worker.runtime.secret_files import SecretFiles

__all__ = ["DockerRuntime", "probe"]

WATCH_OPEN_SECONDS = 10.0
LOG_READ_SECONDS = 30.0
LOG_READERS_AT_ONCE = 2
# How long the kernel may take to end what was killed.
KILLED_SECONDS = 15.0
NETWORK_TRIES = 20
# How long a name may be taken by a container that cannot be seen yet.
NAME_SECONDS = 5.0
_PULLS, _NOTHING, _DISK = PullLimits(), Access(), DiskLimits()
FIRST_LOOK_SECONDS, LONGEST_LOOK_SECONDS = 0.02, 0.5

T = TypeVar("T")


class DockerRuntime:
    """The containers of one node of one cluster, told apart from all others by their labels."""

    def __init__(
        self,
        env: Env,
        *,
        cluster: str,
        node: str,
        url: str | None = None,
        pulls: PullLimits = _PULLS,
        credentials: Credentials | None = None,
        access: Access = _NOTHING,
        disk: DiskLimits = _DISK,
        record: str = "",
        node_address: str = "127.0.0.1",
    ) -> None:
        """`node_address` is where published ports that the engine chooses are opened; `record` a file
        for what was pulled."""
        self._env = env
        self.cluster = cluster
        self._identity = {"orca.cluster": cluster, "orca.node": node}
        self._labels = [f"{key}={value}" for key, value in self._identity.items()]
        self._node_address = node_address
        self._engine = Engine(env, url)
        self._images = Images(self._engine, limits=pulls, credentials=credentials)
        self._cleaning = Cleaning(self._engine, limits=disk, record=record)
        self._networks = Networks(self._engine, cluster)
        self._executing = Executing(self._engine)
        self._access = access
        self._secret_files = SecretFiles(cluster, node)
        self._log_readers = asyncio.Semaphore(LOG_READERS_AT_ONCE)
        self._meter = Meter(env)
        self._hierarchy = cgroups.find_hierarchy()
        self._ids: dict[str, str] = {}  # task -> engine id
        self._unstarted: set[str] = set()  # tasks created here whose start was not tried yet
        self._starting: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._facts: dict[str, Container] = {}  # engine id -> what an inspect said

    @property
    def name(self) -> str:
        """The word used in `TaskSpec.runtime`."""
        return "docker"

    async def prepare(self, spec: TaskSpec, account: RegistryAccount | None = None) -> None:
        """Have the image here as the spec's pull policy says; "" is "if-not-present"."""
        pulled = await self._images.prepare(spec, account)
        if (image_id := await self._images.id_of(spec.image)) is not None:
            await self._cleaning.note(image_id, pulled=pulled)

    async def digest(self, image_id: str, image: str) -> str:
        """From what the engine knows of where its images came from."""
        return await self._images.digest_of(image_id, image)

    async def create(self, task: Task, spec: TaskSpec, labels: Mapping[str, str]) -> Container:
        """Make the container without starting it. If it exists already, return it as it is."""
        if task.id in self._ids and (known := await self.inspect(task.id)) is not None:
            return known
        sources: builtins.list[str] = []
        if spec.mounts or spec.devices:
            sources = await self._env.threads.run(partial(self._access.sources, spec))
        secrets = await self._put_secrets(task.id, spec) if spec.secret_files else ""
        async with self._networks.held(task.project or "default") as network:
            config = specs.create_config(
                task,
                spec,
                labels,
                sources=sources,
                secrets=secrets,
                network=network,
                init=self._engine.has_init,
                node_address=self._node_address,
            )
            return await self._create_as(task, spec.image, config)

    async def _put_secrets(self, task_id: str, spec: TaskSpec) -> str:
        if not self._engine.is_local:
            reason = "files with secrets need an engine with a local socket (unix://…)"
            raise RuntimeRefusal(reason, permanent=True)
        put = partial(self._secret_files.put, task_id, spec.secret_files)
        return await self._env.threads.run(put)

    async def _create_as(self, task: Task, image: str, config: dict[str, Any]) -> Container:
        """Under the first name that nobody else has."""
        for name in specs.container_names(task):
            try:
                answer = await self._engine.call(partial(_create, name, config))
            except Conflict:
                holder = await self._holder(name)
                if self._is_of(task.id, holder):
                    self._ids[task.id] = holder.id
                    return holder
                continue  # someone else's
            except NotFound as missing:
                raise RuntimeRefusal(f"image {image} not found: {missing.reason}") from missing
            self._ids[task.id] = answer["Id"]
            self._unstarted.add(task.id)
            return specs.created(answer["Id"], task.id, config["Labels"])
        raise RuntimeRefusal(f"the engine has containers with every name of task {task.id} already")

    async def start(self, task_id: str) -> Container:
        """Start a created container and say how it is reached. One that ended is not run again."""
        # Two starts of a short task could otherwise run it twice.
        async with self._starting.setdefault(task_id, asyncio.Lock()):
            return await self._start(task_id)

    async def stop(self, task_id: str, *, grace_seconds: float) -> None:
        """The image's stop signal (else SIGTERM), the grace, SIGKILL; returns when it has ended.

        Done in steps rather than by the engine's own stop, which would hold a thread and a
        connection for the whole grace of every container of a node that drains.
        """
        answer = await self._look(task_id)
        if answer is None or specs.from_inspect(answer).phase is not Phase.RUNNING:
            return
        engine_id = answer["Id"]
        await self._signal(engine_id, answer["Config"].get("StopSignal") or "SIGTERM")
        if await self._ended_within(engine_id, grace_seconds):
            return
        await self._signal(engine_id, "SIGKILL")
        if not await self._ended_within(engine_id, KILLED_SECONDS):
            raise RuntimeRefusal(
                f"the container of task {task_id} did not end {KILLED_SECONDS:g} s after SIGKILL"
            )

    async def remove(self, task_id: str) -> None:
        """Remove every trace, running or not, its anonymous volumes included."""
        for entry in await self._entries(f"orca.task={task_id}"):
            engine_id = entry["Id"]
            with suppress(NotFound, Conflict):  # gone, or someone else is removing it right now
                await self._engine.call(partial(_remove, engine_id))
            await self._gone_within(engine_id, KILLED_SECONDS)
            self._facts.pop(engine_id, None)
            self._executing.forget(engine_id)
        self._ids.pop(task_id, None)
        self._unstarted.discard(task_id)
        await self._env.threads.run(partial(self._secret_files.drop, task_id))

    async def inspect(self, task_id: str) -> Container | None:
        """The container of one task, or None."""
        answer = await self._look(task_id)
        return None if answer is None else await self._told(answer)

    async def list(self) -> list[Container]:
        """Everything of this node in this cluster: one call, and one inspect per news."""
        entries = await self._entries()
        found = await asyncio.gather(*(self._complete(entry) for entry in entries))
        containers = [container for container in found if container is not None]
        self._facts = {container.id: container for container in containers}
        self._ids = {container.task: container.id for container in containers}
        return containers

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[AsyncIterator[str]]:
        """Ids of tasks whose container has just ended, from the engine's event stream."""
        feed = EndedFeed(self._engine, self._labels)
        failure: BaseException | None = None
        async with asyncio.TaskGroup() as group:
            group.create_task(feed.read())
            # Caught and raised again outside: the group would wrap what the caller is to catch, and
            # would abandon the reading thread instead of waiting for its end.
            try:
                await self._opened(feed)
                yield feed
            except (Exception, asyncio.CancelledError) as error:
                failure = error
            finally:
                feed.close()
        if failure is not None:
            raise failure

    async def logs(
        self, task_id: str, *, tail: int, since: float = 0.0, follow: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """The last `tail` lines, both streams in order; then what comes, if `follow`."""
        answer = await self._look(task_id)
        if answer is None:
            raise RuntimeRefusal(f"there is no container for task {task_id}")
        params: dict[str, str | int] = {"stdout": 1, "stderr": 1, "tail": tail}
        if since:
            params["since"] = f"{since:.6f}"
        if follow:
            async with aclosing(self._follow(answer["Id"], params)) as pieces:
                async for piece in pieces:
                    yield piece
            return
        if tail <= 0:
            return
        stream = Closable()

        async def read(work: Callable[[docker.APIClient], T]) -> T:
            # Held per read, not per reader: a slow consumer keeps nobody else waiting.
            async with self._log_readers:
                return await self._env.threads.run(partial(self._engine.blocking, work))

        try:
            chunks = await read(partial(_open_logs, stream, answer["Id"], params))
            while chunk := await read(lambda _: next(chunks, b"")):
                yield chunk
        finally:
            stream.close()  # first, so that a thread that still reads lets go
            stream.release()

    async def _follow(
        self, engine_id: str, params: Mapping[str, str | int]
    ) -> AsyncGenerator[bytes, None]:
        async def phase() -> Phase | None:
            answer = await self._inspect_id(engine_id)
            return None if answer is None else specs.from_inspect(answer).phase

        async def is_over() -> bool:
            return await phase() is not Phase.RUNNING

        # The engine does not wait for a start, and nobody tells of one.
        while await phase() is Phase.CREATED:  # noqa: ASYNC110
            await asyncio.sleep(LONGEST_LOOK_SECONDS)
        version = await self._engine.call(lambda client: str(client.api_version))
        path = f"/v{version}/containers/{engine_id}/logs"
        async with aclosing(
            following.follow(self._engine.url, path, params, is_over=is_over)
        ) as pieces:
            async for piece in pieces:
                yield piece

    async def execute(self, task_id: str, command: Sequence[str], *, seconds: float) -> int:
        """Run a command inside, as the container's user; see `Executing`."""
        if task_id not in self._ids and await self._look(task_id) is None:
            raise RuntimeRefusal(f"there is no container for task {task_id}")
        return await self._executing.run(self._ids[task_id], command, seconds=seconds)

    def grip(self, task_id: str) -> Mapping[str, Any]:
        """See `guardian`; it speaks to a local engine only."""
        if not self._engine.is_local:
            reason = "fenced replicas need an engine with a local socket (unix://…)"
            raise RuntimeRefusal(reason, permanent=True)
        labels = {**self._identity, "orca.task": task_id}
        socket = self._engine.url.removeprefix("unix://")
        return {"runtime": "docker", "socket": socket, "labels": labels}

    async def used(self) -> Resources:
        """Read from the control groups where they are in sight (one list call to name them).

        Zeros where they are not: an engine on another machine, or one that keeps them elsewhere.
        """
        if self._hierarchy is None:
            return Resources()
        running = [entry["Id"] for entry in await self._entries(status="running")]
        return self._meter.read(
            await self._env.threads.run(partial(_usages, self._hierarchy, running))
        )

    async def sweep(self, wanted: Collection[str]) -> Swept:
        """Networks that no container has, images by the room on the engine's disk, and what is left of
        files with secrets."""
        there = {entry["Labels"]["orca.task"] for entry in await self._entries()}
        tidy = partial(self._secret_files.sweep, there, self._env.now())
        await self._env.threads.run(tidy)
        await self._networks.drop_unused()
        return await self._cleaning.sweep(wanted)

    async def close(self) -> None:
        """Let go of connections. What runs goes on running."""
        self._engine.close()

    async def _start(self, task_id: str) -> Container:
        engine_id = self._ids.get(task_id)
        if engine_id is None or task_id not in self._unstarted:
            found = await self.inspect(task_id)
            if found is None:
                raise RuntimeRefusal(f"there is no container for task {task_id}")
            if found.phase is not Phase.CREATED:
                return found
            engine_id = found.id
        self._unstarted.discard(task_id)

        def start_and_look(client: docker.APIClient) -> dict[str, Any]:
            client.start(engine_id)
            answer: dict[str, Any] = client.inspect_container(engine_id)
            return answer

        for last in (False,) * NETWORK_TRIES + (True,):
            try:
                answer = await self._engine.call(start_and_look)
                break
            except RuntimeRefusal as refusal:
                if last or not is_of_network(refusal):
                    raise
            await self._mend_network(engine_id)
            await asyncio.sleep(FIRST_LOOK_SECONDS * 5)
        started = await self._told(answer)
        self._facts[engine_id] = started
        return started

    async def _mend_network(self, engine_id: str) -> None:
        """Make the network again that somebody removed between a container's creation and start."""
        answer = await self._inspect_id(engine_id)
        labels = specs.orca_labels(answer["Config"].get("Labels") if answer else None)
        project = labels.get("orca.project") or "default"
        self._networks.forget(project)
        async with self._networks.held(project):
            pass

    async def _told(self, answer: dict[str, Any]) -> Container:
        """An inspect as a Container. What the engine missed of a kill for memory, the kernel knows."""
        found = specs.from_inspect(answer)
        if not self._engine.is_local:
            return replace(found, address="")
        if not specs.may_have_lacked_memory(found, answer):
            return found
        lacked = await self._env.threads.run(partial(killed_for_memory, found.id))
        return replace(found, oom_killed=lacked)

    async def _holder(self, name: str) -> Container:
        """Who has this name. An engine that makes a container reserves the name, then shows it."""
        deadline = self._env.monotonic() + NAME_SECONDS
        while (answer := await self._inspect_id(name)) is None:
            if self._env.monotonic() > deadline:
                raise RuntimeRefusal(f"the container {name} is just being made or removed")
            await asyncio.sleep(FIRST_LOOK_SECONDS)
        return specs.from_inspect(answer)

    def _is_of(self, task_id: str, container: Container) -> bool:
        return container.task == task_id and self._identity.items() <= container.labels.items()

    async def _entries(self, *labels: str, status: str = "") -> builtins.list[dict[str, Any]]:
        """The engine's list of this node's containers that have these labels too."""
        filters: dict[str, Any] = {"label": [*self._labels, *labels]}
        if status:
            filters["status"] = status
        listed = await self._engine.call(
            lambda client: client.containers(all=True, filters=filters)
        )
        # Asked for several labels, Podman also gives what has only one of them.
        wanted = {*self._labels, *labels}
        return [
            entry
            for entry in listed
            if wanted <= {f"{key}={value}" for key, value in (entry.get("Labels") or {}).items()}
        ]

    async def _look(self, task_id: str) -> dict[str, Any] | None:
        """The engine's inspect of a task's container, or None."""
        engine_id = self._ids.get(task_id)
        if engine_id is None:
            entries = await self._entries(f"orca.task={task_id}")
            if not entries:
                return None
            engine_id = self._ids[task_id] = entries[0]["Id"]
        answer = await self._inspect_id(engine_id)
        if answer is None:
            self._ids.pop(task_id, None)
            self._unstarted.discard(task_id)
        return answer

    async def _inspect_id(self, engine_id: str) -> dict[str, Any] | None:
        try:
            return await self._engine.call(lambda client: client.inspect_container(engine_id))
        except NotFound:
            return None

    async def _complete(self, entry: Mapping[str, Any]) -> Container | None:
        """A list entry as a Container, with an inspect only if its phase is news."""
        fact = self._facts.get(entry["Id"])
        if fact is not None and fact.phase is specs.phase_of(entry["State"]):
            if fact.phase is Phase.RUNNING:
                return replace(fact, host_port=specs.listed_port(entry))
            return fact
        answer = await self._inspect_id(entry["Id"])
        return None if answer is None else await self._told(answer)

    async def _signal(self, engine_id: str, signal: str) -> None:
        with suppress(NotFound, Conflict):  # it has ended meanwhile
            await self._engine.call(lambda client: client.kill(engine_id, signal))

    async def _ended_within(self, engine_id: str, seconds: float) -> bool:
        deadline = self._env.monotonic() + seconds
        pause = FIRST_LOOK_SECONDS
        while True:
            answer = await self._inspect_id(engine_id)
            if answer is None or specs.from_inspect(answer).phase is not Phase.RUNNING:
                return True
            left = deadline - self._env.monotonic()
            if left <= 0:
                return False
            await asyncio.sleep(min(pause, left))
            pause = min(pause * 1.5, LONGEST_LOOK_SECONDS)

    async def _gone_within(self, engine_id: str, seconds: float) -> None:
        deadline = self._env.monotonic() + seconds
        while await self._inspect_id(engine_id) is not None:
            if self._env.monotonic() > deadline:
                raise RuntimeRefusal(f"the engine could not remove container {engine_id[:12]}")
            await asyncio.sleep(FIRST_LOOK_SECONDS * 5)

    async def _opened(self, feed: EndedFeed) -> None:
        try:
            async with asyncio.timeout(WATCH_OPEN_SECONDS):
                await feed.opened.wait()
        except TimeoutError:
            raise RuntimeRefusal("the container engine does not open its event stream") from None
        feed.check()


def _create(name: str, config: dict[str, Any], client: docker.APIClient) -> dict[str, Any]:
    answer: dict[str, Any] = client.create_container_from_config(config, name)  # type: ignore[no-untyped-call]
    return answer


def _remove(engine_id: str, client: docker.APIClient) -> None:
    client.remove_container(engine_id, v=True, force=True)


def _open_logs(
    stream: Closable, engine_id: str, params: Mapping[str, str | int], client: docker.APIClient
) -> Iterator[bytes]:
    path = f"/containers/{engine_id}/logs"
    response = open_stream(client, "GET", path, params=params, read_seconds=LOG_READ_SECONDS)
    stream.hold(response)
    return whole_lines(frames(response.iter_content(chunk_size=None)))


def _usages(hierarchy: cgroups.Hierarchy, ids: list[str]) -> dict[str, cgroups.Usage]:
    """Every way an engine places its groups is tried; those it did not take read as 0."""
    places = (
        "docker/{}",
        "system.slice/docker-{}.scope",
        "machine.slice/libpod-{}.scope",
        "libpod_parent/libpod-{}",
    )
    return {
        engine_id: sum(
            (cgroups.usage(hierarchy.folders(place.format(engine_id))) for place in places),
            start=cgroups.Usage(0, 0.0),
        )
        for engine_id in ids
    }
