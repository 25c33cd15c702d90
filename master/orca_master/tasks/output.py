"""The output of tasks on its way to whoever asked: several tasks' pieces in the order of arrival.

A worker may send only as much as its window allows; each piece that was taken allows as much more.
So what is held here for one request is bounded, whatever the tasks write and however slowly it is
read; a worker that does not keep to its window has lines left out.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from orca_master.tasks.model import Task
from orca_proto import worker_pb2 as pb

MOST_BYTES = 16 << 20
"""Held for one request, all tasks together; more than the windows of all allow."""
TOTAL_WINDOW_BYTES = 8 << 20
WINDOW_BYTES = 256 << 10
LEAST_WINDOW_BYTES = 16 << 10


class Source(Protocol):
    """One task's output at its worker, opened by `Dispatcher.open_output`."""

    async def more(self, count: int) -> None:
        """So many bytes were taken. Raises ConnectionError."""
        ...

    def cancel(self) -> None:
        """Nothing more is wanted."""
        ...


class Opener(Protocol):
    """What `Outputs` needs of the dispatcher."""

    async def open_output(
        self, task: Task, request: pb.LogRequest, sink: Callable[[pb.LogChunk], None]
    ) -> Source:
        """Raises NotReady: the task's node is not connected."""
        ...


@dataclass(frozen=True, slots=True)
class Piece:
    """Lines of one task. `left_out` lines are missing before them. `done`: its last, with `error` if
    there might be more. `at`: when it was read, by the node's clock."""

    task: Task
    data: bytes
    left_out: int
    done: bool
    error: str
    at: float


class Outputs:
    """The readers of one request: whoever makes it closes it. They do not outlive the asyncio task
    that made it, for who asked may be gone without anybody closing anything."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._sources: dict[str, Source] = {}
        self._pieces: deque[Piece] = deque()
        self._held_bytes = 0
        self._left_out: dict[str, int] = {}
        self._news = asyncio.Event()
        self._maker = asyncio.current_task()
        if self._maker is not None:
            self._maker.add_done_callback(self.close)

    @property
    def reading(self) -> set[str]:
        """The ids of the tasks that are being read."""
        return set(self._sources)

    async def open(
        self, task: Task, *, tail: int, since: float = 0.0, follow: bool = False, readers: int = 1
    ) -> None:
        """Read this task too. `readers`: how many there will be in all. Raises NotReady."""
        window = max(LEAST_WINDOW_BYTES, min(WINDOW_BYTES, TOTAL_WINDOW_BYTES // max(1, readers)))
        request = pb.LogRequest(task=task.id, tail=tail, since=since, follow=follow, window=window)
        self._sources[task.id] = await self._opener.open_output(
            task, request, lambda chunk: self._take(task, chunk)
        )

    async def next(self, seconds: float) -> Piece | None:
        """The next piece; None when there is none for so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._pieces:
                    self._news.clear()
                    await self._news.wait()
        if not self._pieces:
            return None
        piece = self._pieces.popleft()
        self._held_bytes -= len(piece.data)
        if piece.done:
            self._sources.pop(piece.task.id, None)
        return piece

    async def taken(self, piece: Piece) -> None:
        """The piece has left for whoever asked; its worker may send as much again."""
        source = self._sources.get(piece.task.id)
        if source is not None and piece.data:
            with suppress(ConnectionError):  # then the session says so itself
                await source.more(len(piece.data))

    def close(self, _: object = None) -> None:
        """End all readers at their workers."""
        if self._maker is not None:
            self._maker.remove_done_callback(self.close)
        sources, self._sources = self._sources, {}
        for source in sources.values():
            source.cancel()

    def _take(self, task: Task, chunk: pb.LogChunk) -> None:
        left_out = chunk.left_out + self._left_out.pop(task.id, 0)
        data = chunk.data
        if data and self._held_bytes >= MOST_BYTES:
            self._left_out[task.id] = left_out + (data.count(b"\n") or 1)
            if not chunk.done:
                return
            left_out, data = self._left_out.pop(task.id), b""
        self._held_bytes += len(data)
        piece = Piece(task, data, left_out, chunk.done, chunk.error, chunk.at)
        self._pieces.append(piece)
        self._news.set()
