"""Tasks as plain processes: what a node can do that has no container engine.

Each process has a shim (`shim.py`) that outlives the worker and writes down how it ended, so that a
restarted worker finds everything again in the folder. This is no security boundary: a task sees the
machine as the user it runs as. Limits hold where control groups are writable (`limits_enforced`).
"""

import asyncio
import builtins
import os
import select
import signal
import sys
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Mapping,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import msgspec

from orca_common.env import Env
from orca_proto.worker_pb2 import RegistryAccount, Resources, Task, TaskSpec
from orca_worker.runtime import cgroups
from orca_worker.runtime.lines import CHUNK_BYTES, Lines, tail_offset, whole_lines
from orca_worker.runtime.meter import Meter
from orca_worker.runtime.port import Container, Phase, RuntimeRefusal, Swept
from orca_worker.runtime.process import shim, table
from orca_worker.runtime.process.ends import Watch, ended_within, on_end
from orca_worker.runtime.process.executing import Executing
from orca_worker.runtime.process.folder import (
    HIGHEST_PORT,
    LOWEST_PORT,
    Observed,
    Record,
    State,
    Tasks,
    first_kept,
    port_is_free,
    reader,
    shim_lives,
)
from orca_worker.runtime.process.times import Times
from orca_worker.runtime.secret_files import VARIABLE, SecretFiles

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHIM_SECONDS = 10.0
KILLED_SECONDS = 15.0
LOOK_SECONDS = 0.02
# How often a file that is followed is looked at, and how often sizes of files are noted.
FOLLOW_SECONDS = 0.1
NOTE_SECONDS = 1.0
# The runtime's share of the worker's threads.
CALLS_AT_ONCE = 4
# Of output, unless the service says otherwise: files are counted as engines do.
LOG_BYTES, LOG_FILES = 10 << 20, 3

T = TypeVar("T")


class ProcessRuntime:
    """The plain processes of one node of one cluster, told apart by the labels in their records."""

    def __init__(self, env: Env, *, folder: str, cluster: str, node: str) -> None:
        self._env = env
        self._tasks = Tasks(folder)
        self._identity = {"orca.cluster": cluster, "orca.node": node}
        self._secret_files = SecretFiles(cluster, node)
        self._secret_env: dict[str, dict[str, str]] = {}  # of tasks that are not started yet
        self._groups = cgroups.Groups()
        self._times = Times(self._tasks)
        self._meter = Meter(env)
        self._calls = asyncio.Semaphore(CALLS_AT_ONCE)
        self._executing = Executing()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._watches: set[Watch] = set()

    @property
    def name(self) -> str:
        """The word used in `TaskSpec.runtime`."""
        return "process"

    @property
    def limits_enforced(self) -> bool:
        """Whether memory and processor limits take effect; without control groups they do not."""
        return self._groups.enforce

    async def prepare(self, spec: TaskSpec, account: RegistryAccount | None = None) -> None:
        """Nothing: there is no image."""

    async def digest(self, image_id: str, image: str) -> str:
        """There are no images."""
        return ""

    async def create(self, task: Task, spec: TaskSpec, labels: Mapping[str, str]) -> Container:
        """Write the task's folder and choose its port. If it exists already, return it as it is."""
        if not spec.command:
            raise RuntimeRefusal("a plain process needs a command", permanent=True)
        if spec.secret_env:
            self._secret_env[task.id] = dict(spec.secret_env)
        if spec.secret_files:
            await self._run(partial(self._secret_files.put, task.id, spec.secret_files))
        record = Record(
            task=task.id,
            labels=dict(labels),
            command=list(spec.command),
            env=self._environment(task.id, spec),
            port=spec.host_port or (-1 if spec.port else 0),
            fixed_port=bool(spec.host_port),
            user=spec.user,
            workdir=spec.workdir,
            memory_bytes=spec.limits.memory_bytes,
            cpu_millis=spec.limits.cpu_millis,
            cgroups=[],
            stop_signal=spec.stop_signal,
            output_bytes=(spec.log_bytes or LOG_BYTES) * (spec.log_files or LOG_FILES),
            secret_env=sorted(spec.secret_env),
        )
        hint = int(self._env.random.uniform(0, HIGHEST_PORT - LOWEST_PORT))
        await self._run(partial(self._tasks.create, record, port_hint=hint))
        return (await self._observe(task.id)).container

    async def start(self, task_id: str) -> Container:
        """Start a created process. One that ended is not run again."""
        async with self._lock(task_id):
            found = await self._run(partial(self._start, task_id))
            deadline = self._env.monotonic() + SHIM_SECONDS
            while found.state is None:
                # Its shim was started by a worker that is gone, and is just about to write.
                if self._env.monotonic() > deadline:
                    raise RuntimeRefusal(f"the process of task {task_id} does not start")
                await asyncio.sleep(LOOK_SECONDS)
                found = await self._observe(task_id)
            self._secret_env.pop(task_id, None)
            # Also when it has ended by now: who watches is to hear of it.
            for watch in self._watches:
                watch.follow(task_id, found.state)
            return found.container

    async def stop(self, task_id: str, *, grace_seconds: float) -> None:
        """The stop signal (SIGTERM) to the process group, the grace, SIGKILL; returns at its end."""
        found = await self._run(partial(self._tasks.observe, task_id, self._env.now()))
        if found is None or found.state is None or found.container.phase is not Phase.RUNNING:
            return
        state = found.state
        await self._run(partial(_signal_group, state, _stop_signal(found.record)))
        if await ended_within(state, grace_seconds):
            return
        await self._run(partial(self._kill_all, found.record, state))
        if not await ended_within(state, KILLED_SECONDS):
            raise RuntimeRefusal(
                f"the process of task {task_id} did not end {KILLED_SECONDS:g} s after SIGKILL"
            )

    async def remove(self, task_id: str) -> None:
        """Kill what is left of it, also what fled from its process group, and its folder."""
        async with self._lock(task_id):
            deadline = self._env.monotonic() + KILLED_SECONDS
            while not await self._run(partial(self._remove, task_id)):
                if self._env.monotonic() > deadline:
                    raise RuntimeRefusal(f"what is left of task {task_id} does not end")
                await asyncio.sleep(LOOK_SECONDS)
            self._secret_env.pop(task_id, None)
            await self._run(partial(self._secret_files.drop, task_id))

    async def inspect(self, task_id: str) -> Container | None:
        """The process of one task, or None."""
        found = await self._run(partial(self._tasks.observe, task_id, self._env.now()))
        return None if found is None else found.container

    async def list(self) -> list[Container]:
        """Everything of this node in this cluster."""
        return [found.container for found in await self._run(self._observe_own)]

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[AsyncIterator[str]]:
        """Ids of tasks whose process has just ended, whoever started it."""
        watch = Watch()
        self._watches.add(watch)
        failure: BaseException | None = None
        async with asyncio.TaskGroup() as group:
            noting = group.create_task(self._note_times(watch))
            # Caught and raised again outside: the group would wrap what the caller is to catch.
            try:
                for found in await self._run(self._observe_own):
                    if found.state is not None and found.container.phase is Phase.RUNNING:
                        watch.follow(found.record.task, found.state)
                yield watch
            except (Exception, asyncio.CancelledError) as error:
                failure = error
            finally:
                noting.cancel()
                self._watches.discard(watch)
                watch.close()
        if failure is not None:
            raise failure

    async def _note_times(self, watch: Watch) -> None:
        while True:
            await asyncio.sleep(NOTE_SECONDS)
            if watch.followed:
                with suppress(RuntimeRefusal):  # a full disk: `--since` then tells a little more
                    await self._run(partial(self._times.note, watch.followed))

    async def logs(
        self, task_id: str, *, tail: int, since: float = 0.0, follow: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """The last `tail` lines of its output as it is now; then what comes, if `follow`."""
        found = await self._observe(task_id)
        fd = self._open_output(task_id)
        while fd < 0:
            if not follow or found.container.phase is Phase.EXITED:
                return
            await asyncio.sleep(LOOK_SECONDS)
            found = await self._observe(task_id)
            fd = self._open_output(task_id)
        try:
            size = os.fstat(fd).st_size
            start = await self._run(partial(self._first, task_id, fd, size, tail, since))
            if follow:
                found = await self._observe(task_id)
                assert found.state is not None, "there is output, so it was started"
                async with aclosing(self._follow(fd, start, found.state)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                return
            offsets = range(start, size, CHUNK_BYTES)
            lines = whole_lines(os.pread(fd, min(CHUNK_BYTES, size - at), at) for at in offsets)
            while chunk := await self._run(lambda: next(lines, b"")):
                yield chunk
        finally:
            os.close(fd)

    def _open_output(self, task_id: str) -> int:
        """-1: there is none yet."""
        try:
            return os.open(self._tasks.path(task_id, "output.log"), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return -1

    def _first(self, task_id: str, fd: int, size: int, tail: int, since: float) -> int:
        first = max(first_kept(fd), self._times.first_since(task_id, fd, since) if since else 0)
        return tail_offset(reader(fd), size, tail, first=first)

    async def _follow(self, fd: int, at: int, state: State) -> AsyncGenerator[bytes, None]:
        """Whole lines from this offset on, as they come, to the process's end."""
        lines = Lines()
        ended = asyncio.Event()
        stop = on_end(state.shim, state.shim_start, ended.set)
        try:
            while True:
                is_last = ended.is_set()  # asked before the last look, so that nothing is missed
                at = min(at, os.fstat(fd).st_size)  # somebody may have cut the file
                while piece := await self._run(partial(os.pread, fd, CHUNK_BYTES, at)):
                    at += len(piece)
                    if whole := lines.take(piece):
                        yield whole
                if is_last:
                    break
                await _until_longer(fd, at, ended)
            if rest := lines.rest():
                yield rest
        finally:
            stop()

    async def execute(self, task_id: str, command: Sequence[str], *, seconds: float) -> int:
        """Run a command in the task's place; see `Executing`."""
        found = await self._observe(task_id)
        if found.container.phase is not Phase.RUNNING:
            raise RuntimeRefusal(f"task {task_id} does not run")
        return await self._executing.run(self._tasks.path(task_id), command, seconds=seconds)

    def grip(self, task_id: str) -> Mapping[str, Any]:
        """See `guardian`."""
        return {"runtime": "process", "folder": self._tasks.path(task_id)}

    async def used(self) -> Resources:
        """From the tasks' control groups, else from the process table (resident memory)."""
        return self._meter.read(await self._run(self._usages))

    async def sweep(self, wanted: Collection[str]) -> Swept:
        """What is left of files with secrets; else a process leaves nothing but its folder."""

        def tidy() -> None:
            self._secret_files.sweep(self._tasks.ids(), self._env.now())

        await self._run(tidy)
        return Swept()

    async def close(self) -> None:
        """Nothing is held; what runs goes on running."""

    def _environment(self, task_id: str, spec: TaskSpec) -> dict[str, str]:
        env = {"PATH": DEFAULT_PATH, "HOME": self._tasks.path(task_id, "work"), **spec.env}
        if spec.host_port:
            env["PORT"] = str(spec.host_port)
        if spec.secret_files:
            env[VARIABLE] = self._secret_files.path(task_id)
        return env

    async def _run(self, work: Callable[[], T]) -> T:
        """Blocking work in a thread, its OSError as a refusal."""
        async with self._calls:
            try:
                return await self._env.threads.run(work)
            except OSError as error:
                raise RuntimeRefusal(f"this node's disk or kernel refuses: {error}") from error

    def _lock(self, task_id: str) -> asyncio.Lock:
        return self._locks.setdefault(task_id, asyncio.Lock())

    async def _observe(self, task_id: str) -> Observed:
        found = await self._run(partial(self._tasks.observe, task_id, self._env.now()))
        if found is None:
            raise RuntimeRefusal(f"there is no process for task {task_id}")
        return found

    def _observe_own(self) -> builtins.list[Observed]:
        now = self._env.now()
        every = (self._tasks.observe(task_id, now) for task_id in self._tasks.ids())
        return [
            found
            for found in every
            if found is not None and self._identity.items() <= found.record.labels.items()
        ]

    def _start(self, task_id: str) -> Observed:
        found = self._tasks.observe(task_id, self._env.now())
        if found is None:
            raise RuntimeRefusal(f"there is no process for task {task_id}")
        if found.container.phase is not Phase.CREATED:
            return found
        record = found.record
        given = self._secret_env.get(task_id, {})
        if sorted(given) != record.secret_env:
            raise RuntimeRefusal(f"the secrets of task {task_id} are not here any more")
        if record.fixed_port and not port_is_free(record.port):
            raise RuntimeRefusal(f"port {record.port} is already in use on this node")
        groups = self._groups.make(
            task_id, memory_bytes=record.memory_bytes, cpu_millis=record.cpu_millis
        )
        limits = {} if groups or not record.memory_bytes else {"data": record.memory_bytes}
        if (groups, limits) != (record.cgroups, record.limits):
            record = msgspec.structs.replace(record, cgroups=groups, limits=limits)
            self._tasks.write_record(record)
        word, _, reason = _spawn_shim(self._tasks.path(task_id), given).partition(" ")
        if word == "refused":
            raise RuntimeRefusal(reason, permanent=True)
        if word not in ("started", "busy"):
            raise RuntimeRefusal(f"the shim of task {task_id} did not start the process")
        return self._tasks.observe(task_id, self._env.now()) or found

    def _remove(self, task_id: str) -> bool:
        """Take the next step; True: nothing is left."""
        if not os.path.lexists(self._tasks.path(task_id)):
            return True
        record, state = self._tasks.read_record(task_id), self._tasks.read_state(task_id)
        # With the lock in hand nothing new can start; without it a shim lives or is starting.
        with self._tasks.shim_kept_out(task_id) as kept_out:
            if record is not None and (self._kill_all(record, state) or not kept_out):
                return False
            if record is not None:
                cgroups.remove(record.cgroups)
            if state is not None:
                shim_lives(state)  # it does not; but a dead child is reaped by looking
            self._tasks.discard(task_id)
        return True

    def _kill_all(self, record: Record, state: State | None) -> bool:
        """SIGKILL to all that belongs to the task but its shim. True: there was something."""
        found = cgroups.members(record.cgroups)
        if state is not None and state.boot == table.boot_id():
            session = table.session_members(state.pid, state.pid_start)
            found.update(process.pid for process in session)
        home = self._tasks.path(record.task, "work")
        if not record.cgroups and record.env.get("HOME") == home:
            found.update(table.with_environment(f"HOME={home}"))
        # The dead that nobody has reaped are listed too, and stay listed where nobody reaps.
        living = [pid for pid in found if (one := table.read(pid)) and not one.is_dead]
        for pid in living:
            table.send(pid, signal.SIGKILL)
        return bool(living)

    def _usages(self) -> dict[str, cgroups.Usage]:
        usages = {}
        for found in self._observe_own():
            if found.state is None or found.container.phase is not Phase.RUNNING:
                continue
            if found.record.cgroups:
                usages[found.record.task] = cgroups.usage(found.record.cgroups)
                continue
            session = table.session_members(found.state.pid, found.state.pid_start)
            usages[found.record.task] = sum(
                (process.usage for process in session), start=cgroups.Usage(0, 0.0)
            )
        return usages


async def _until_longer(fd: int, size: int, ended: asyncio.Event) -> None:
    """Wait for the file to have more than `size` bytes (or fewer), or for the end of who writes."""
    while os.fstat(fd).st_size == size and not ended.is_set():
        with suppress(TimeoutError):
            async with asyncio.timeout(FOLLOW_SECONDS):
                await ended.wait()


def _stop_signal(record: Record) -> signal.Signals:
    return signal.Signals[record.stop_signal] if record.stop_signal else signal.SIGTERM


def _signal_group(state: State, number: signal.Signals) -> None:
    leader = table.read(state.pid)
    if leader is not None and leader.start == state.pid_start:
        table.send_group(state.pid, number)


def _in_memory(given: Mapping[str, str]) -> int:
    """An open file that has no name and is on no disk."""
    fd = os.memfd_create("secrets", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(msgspec.json.encode(given))
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _spawn_shim(folder: str, given: Mapping[str, str]) -> str:
    """Start the shim in a session of its own and return its one line ("": it said nothing).

    `given` goes to it in memory."""
    read_end, write_end = os.pipe()
    stdin = _in_memory(given) if given else os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", shim.__file__, folder],
            {},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, stdin, 0),
                (os.POSIX_SPAWN_DUP2, write_end, 1),
                (
                    os.POSIX_SPAWN_OPEN,
                    2,
                    os.path.join(folder, "shim.log"),
                    os.O_CREAT | os.O_WRONLY | os.O_APPEND,
                    0o600,
                ),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGTERM, signal.SIGCHLD],
        )
        os.close(write_end)
        write_end = -1
        word = _read_line(read_end)
    finally:
        os.close(read_end)
        os.close(stdin)
        if write_end >= 0:
            os.close(write_end)
    if word != "started":
        # It has nothing more to do; one that said nothing must not begin later.
        if not word:
            table.send(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return word


def _read_line(fd: int) -> str:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    line = b""
    while not line.endswith(b"\n") and poll.poll(SHIM_SECONDS * 1000):
        piece = os.read(fd, 4096)
        if not piece:
            break
        line += piece
    return line.decode(errors="replace").strip()
