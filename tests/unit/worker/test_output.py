"""A task's output on its way to a master that reads slowly, or not at all."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from orca_common.real import real_env
from orca_proto import worker_pb2 as pb
from orca_worker import output
from orca_worker.output import Output
from orca_worker.runtime.port import RuntimeRefusal

BLOCK = b"".join(b"%015d\n" % n for n in range(1024))


class Task:
    """Writes blocks of 16 KiB, one after the other, as fast as they are taken."""

    def __init__(self, blocks: int, ending: str = "") -> None:
        self._blocks = blocks
        self._ending = ending
        self.written = 0
        self.goes_on = asyncio.Event()
        self.is_closed = False

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        try:
            for _ in range(self._blocks):
                self.written += 1
                yield BLOCK
            await self.goes_on.wait()
            if self._ending:
                raise RuntimeRefusal(self._ending)
        finally:
            self.is_closed = True


@asynccontextmanager
async def sending(task: Task, **request: Any) -> Any:
    sent: list[pb.LogChunk] = []

    async def send(message: pb.FromWorker) -> None:
        sent.append(message.log_chunk)

    one = Output(real_env(threads=1), pb.LogRequest(request="r", **request), send)
    running = asyncio.ensure_future(one.run(task.chunks()))
    try:
        yield one, sent, running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_what_is_there_is_read_no_faster_than_it_is_taken() -> None:
    task = Task(100)
    async with sending(task, window=len(BLOCK) * 2) as (one, sent, _):
        await until(lambda: len(sent) == 2)
        await asyncio.sleep(0.1)
        assert (len(sent), task.written) == (2, 3)
        for count in range(3, 100):
            one.more(len(BLOCK))
            await until(lambda count=count: len(sent) == count)
        assert task.written <= 100


async def test_a_follower_that_stands_still_has_lines_left_out_and_is_told_how_many() -> None:
    task = Task(1000)
    async with sending(task, window=len(BLOCK), follow=True) as (one, sent, running):
        await until(lambda: task.written == 1000)
        assert len(sent) == 1
        one.more(1 << 30)
        await until(lambda: sum(chunk.left_out for chunk in sent) > 0)
        lines = sum(chunk.data.count(b"\n") for chunk in sent)
        assert lines + sum(chunk.left_out for chunk in sent) == 1000 * 1024
        assert lines * 16 <= output.HELD_BYTES + 3 * len(BLOCK), "so much was held"
        task.goes_on.set()
        await running
        assert sent[-1].done


async def test_a_follower_that_only_pauses_misses_nothing() -> None:
    task = Task(100)
    async with sending(task, window=len(BLOCK), follow=True) as (one, sent, _):
        await until(lambda: len(sent) == 1)
        await asyncio.sleep(0.3)
        one.more(1 << 30)
        await until(lambda: len(sent) == 100)
        assert sum(chunk.left_out for chunk in sent) == 0


async def test_a_cancelled_reader_closes_what_it_reads() -> None:
    for follow in (False, True):
        task = Task(1)
        async with sending(task, follow=follow) as (_, sent, running):
            await until(lambda sent=sent: len(sent) == 1)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            assert task.is_closed


async def test_a_refusal_ends_it_with_its_reason() -> None:
    for follow in (False, True):
        task = Task(1, "the disk is gone")
        task.goes_on.set()
        async with sending(task, follow=follow) as (_, sent, running):
            await running
            assert (sent[-1].done, sent[-1].error) == (True, "the disk is gone")
