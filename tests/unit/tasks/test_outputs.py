"""What a master holds of tasks' output: bounded, whatever a worker sends."""

import asyncio
from collections.abc import Callable

from orca_master.tasks import output
from orca_master.tasks.model import Task
from orca_master.tasks.output import Outputs
from orca_proto import worker_pb2 as pb


class Worker:
    """Opens outputs, and remembers what it was told of them."""

    def __init__(self) -> None:
        self.asked: list[pb.LogRequest] = []
        self.sinks: dict[str, Callable[[pb.LogChunk], None]] = {}
        self.allowed = 0
        self.cancelled = 0

    async def open_output(
        self, task: Task, request: pb.LogRequest, sink: Callable[[pb.LogChunk], None]
    ) -> "Worker":
        self.asked.append(request)
        self.sinks[task.id] = sink
        return self

    async def more(self, count: int) -> None:
        self.allowed += count

    def cancel(self) -> None:
        self.cancelled += 1


def a_task(number: int) -> Task:
    return Task(f"{number:016x}", "service:default/p/web", "p", "web", 1, number, "hash", 0.0)


async def test_a_worker_that_keeps_to_no_window_has_lines_left_out_and_counted() -> None:
    worker, task = Worker(), a_task(1)
    outputs = Outputs(worker)
    await outputs.open(task, tail=10, follow=True)
    chunk = pb.LogChunk(data=b"line\n" * 20_000)
    for _ in range(1000):
        worker.sinks[task.id](chunk)
    worker.sinks[task.id](pb.LogChunk(done=True))
    held, lines, left_out = 0, 0, 0
    while (piece := await outputs.next(0.1)) is not None:
        held += len(piece.data)
        lines += piece.data.count(b"\n")
        left_out += piece.left_out
    assert held <= output.MOST_BYTES + len(chunk.data)
    assert lines + left_out == 1000 * 20_000
    assert left_out > 0
    outputs.close()


async def test_what_is_taken_may_be_sent_again() -> None:
    worker, task = Worker(), a_task(1)
    outputs = Outputs(worker)
    await outputs.open(task, tail=10)
    worker.sinks[task.id](pb.LogChunk(data=b"12345\n"))
    piece = await outputs.next(1.0)
    assert piece is not None
    assert worker.allowed == 0
    await outputs.taken(piece)
    assert worker.allowed == 6
    outputs.close()


async def test_all_windows_together_are_bounded() -> None:
    worker = Worker()
    outputs = Outputs(worker)
    for number in range(500):
        await outputs.open(a_task(number), tail=1, follow=True, readers=500)
    assert sum(request.window for request in worker.asked) <= output.MOST_BYTES
    assert worker.asked[0].window >= output.LEAST_WINDOW_BYTES
    outputs.close()
    assert worker.cancelled == 500


async def test_readers_end_with_the_task_that_made_them_although_nobody_closed_them() -> None:
    worker = Worker()

    async def request() -> None:
        await Outputs(worker).open(a_task(1), tail=1, follow=True)

    await asyncio.gather(request())
    await asyncio.sleep(0)
    assert worker.cancelled == 1
