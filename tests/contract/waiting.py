"""Waiting for a condition with a deadline, and the short cuts that many claims begin with."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from contract.benches import Bench
from orca_proto.worker_pb2 import Task
from orca_worker.runtime.port import Container, Phase, Runtime


async def until(condition: Callable[[], Awaitable[Any]], seconds: float = 60.0) -> Any:
    """The first true answer of the condition."""
    deadline = time.monotonic() + seconds
    while True:
        answer = await condition()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {seconds} s"
        await asyncio.sleep(0.02)


async def exited(runtime: Runtime, task_id: str, seconds: float = 60.0) -> Container:
    """The container, once it has ended."""

    async def ended() -> Container | None:
        found = await runtime.inspect(task_id)
        return found if found is not None and found.phase is Phase.EXITED else None

    found: Container = await until(ended, seconds)
    return found


async def launch(
    bench: Bench, runtime: Runtime, command: list[str], *, node: str = "n1", **fields: Any
) -> Task:
    """Create and start a task that runs this command."""
    task = bench.task()
    await runtime.create(task, bench.spec(command, **fields), bench.labels(task, node))
    await runtime.start(task.id)
    return task


async def output(runtime: Runtime, task_id: str, *, tail: int = 1000, since: float = 0.0) -> bytes:
    """The whole answer of logs."""
    return b"".join([chunk async for chunk in runtime.logs(task_id, tail=tail, since=since)])


async def next_end(ended: AsyncIterator[str], task_id: str, seconds: float = 60.0) -> None:
    """Read the watch until this task comes by."""
    async with asyncio.timeout(seconds):
        while await anext(ended) != task_id:
            pass


async def listens(port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True
