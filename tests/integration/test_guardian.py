"""The guardian as a real program: what it ends, what it leaves alone, and when it ends itself."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from orca_common.env import Env
from orca_common.real import real_env
from orca_proto.worker_pb2 import Task, TaskSpec
from orca_worker.guarding import ProcessGuardian
from orca_worker.runtime.port import Phase, RuntimeRefusal
from orca_worker.runtime.process.runtime import ProcessRuntime

GUARD_SECONDS = 60.0
HOUR = 3600.0


class Node:
    """A worker's runtime and guardian, without the worker."""

    def __init__(self, env: Env, folder: Path) -> None:
        self.env = env
        self.folder = str(folder / "fence")
        self.runtime = ProcessRuntime(env, folder=str(folder / "tasks"), cluster="c", node="n")
        self.guardian = ProcessGuardian(env, self.folder)

    async def create(self, task_id: str) -> None:
        labels = {"orca.cluster": "c", "orca.node": "n"}
        spec = TaskSpec(runtime="process", command=["sh", "-c", "setsid sleep 86000 & sleep 86000"])
        await self.runtime.create(Task(id=task_id), spec, labels)

    async def start(self, *task_ids: str) -> None:
        for task_id in task_ids:
            await self.create(task_id)
            await self.runtime.start(task_id)

    async def lease(self, seconds: float) -> None:
        await self.guardian.extend(time.clock_gettime(time.CLOCK_BOOTTIME) + seconds)

    async def fence(self, task_id: str) -> None:
        await self.guardian.add(task_id, self.runtime.grip(task_id))

    async def phase(self, task_id: str) -> Phase:
        found = await self.runtime.inspect(task_id)
        assert found is not None
        return found.phase

    async def until_ended(self, task_id: str) -> None:
        async with asyncio.timeout(GUARD_SECONDS):
            while await self.phase(task_id) is not Phase.EXITED:
                await asyncio.sleep(0.02)

    def guardians(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if self.folder in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def programs(self, task_id: str) -> int:
        """What lives with this task's HOME, in whatever session."""
        home = f"HOME={self.runtime.grip(task_id)['folder']}/work".encode()
        count = 0
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                environ = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
                count += home in environ and process.status() != psutil.STATUS_ZOMBIE
        return count


@asynccontextmanager
async def a_node(folder: Path) -> AsyncIterator[Node]:
    node = Node(real_env(threads=2), folder)
    try:
        yield node
    finally:
        for container in await node.runtime.list():
            await node.runtime.remove(container.task)
            await node.guardian.remove(container.task)
        for process in node.guardians():
            process.kill()


async def test_it_ends_all_of_what_is_fenced_and_nothing_else_when_the_lease_ends(
    tmp_path: Path,
) -> None:
    async with a_node(tmp_path) as node:
        await node.lease(HOUR)
        await node.start("fenced", "free")
        await node.fence("fenced")
        (process,) = node.guardians()
        print(f"guardian: {process.memory_info().rss / 2**20:.1f} MB")
        assert process.memory_info().rss < 40 << 20
        assert os.getsid(process.pid) == process.pid
        assert node.programs("fenced") >= 2
        await node.lease(0.0)
        await node.until_ended("fenced")
        assert node.programs("fenced") == 0
        assert await node.phase("free") is Phase.RUNNING


async def test_what_was_to_start_when_the_lease_ended_never_starts(tmp_path: Path) -> None:
    """As when the worker stood still between its look at the lease and the start."""
    async with a_node(tmp_path) as node:
        await node.lease(HOUR)
        await node.create("late")
        await node.fence("late")
        await node.lease(0.0)
        async with asyncio.timeout(GUARD_SECONDS):
            while not await node.guardian.is_condemned("late"):
                await asyncio.sleep(0.02)
        await node.lease(HOUR)
        await node.fence("late")
        assert await node.guardian.is_condemned("late")
        marked = Path(str(node.runtime.grip("late")["folder"])) / "condemned"
        async with asyncio.timeout(GUARD_SECONDS):
            while not marked.exists():
                await asyncio.sleep(0.02)
        with pytest.raises(RuntimeRefusal, match="lease ended before it was started"):
            await node.runtime.start("late")


async def test_one_that_was_killed_is_started_again_and_the_worker_enforces_meanwhile(
    tmp_path: Path,
) -> None:
    async with a_node(tmp_path) as node:
        await node.lease(HOUR)
        await node.start("fenced", "other")
        await node.fence("fenced")
        (first,) = node.guardians()
        first.send_signal(signal.SIGTERM)  # of this it takes no notice
        await node.fence("other")
        assert node.guardians() == [first]
        first.kill()
        async with asyncio.timeout(GUARD_SECONDS):
            while node.guardians():
                await asyncio.sleep(0.02)
        await node.lease(0.0)
        assert await node.phase("fenced") is Phase.RUNNING
        await node.guardian.tend()
        await node.until_ended("fenced")
        await node.until_ended("other")
        (second,) = node.guardians()
        assert second.pid != first.pid


async def test_a_lease_from_before_the_machine_was_started_is_none(tmp_path: Path) -> None:
    async with a_node(tmp_path) as node:
        await node.start("fenced")
        until = time.clock_gettime(time.CLOCK_BOOTTIME) + HOUR
        Path(node.folder).mkdir()
        Path(node.folder, "lease.json").write_text(f'{{"boot": "another", "until": {until}}}')
        await node.fence("fenced")
        await node.until_ended("fenced")


async def test_it_ends_once_nothing_is_fenced_and_is_there_again_when_something_is(
    tmp_path: Path,
) -> None:
    async with a_node(tmp_path) as node:
        await node.lease(HOUR)
        await node.start("one")
        await node.fence("one")
        (first,) = node.guardians()
        await node.guardian.remove("one")
        async with asyncio.timeout(GUARD_SECONDS):
            while node.guardians():
                await asyncio.sleep(0.1)
        await node.fence("one")
        (second,) = node.guardians()
        assert second.pid != first.pid
        assert await node.phase("one") is Phase.RUNNING
