"""A task's output on its way to the master: as much as its reader takes, and no more in memory.

It is read no faster than it is taken. A followed output goes on, though, whether it is taken or not:
when its reader has stood still for a while, what comes is left out until he goes on, and he is told
how many lines that were.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass

from orca_common.cancelling import go_on_unless_cancelled
from orca_common.env import Env
from orca_proto import worker_pb2 as pb
from orca_worker.runtime.port import RuntimeRefusal

HELD_BYTES = 256 << 10
"""What is kept of a followed output for a reader that does not take it; one chunk may go beyond."""
PATIENCE_SECONDS = 2.0
"""How long a reader may stand still before lines are left out."""

Chunks = AsyncGenerator[bytes, None]


@dataclass(frozen=True, slots=True)
class _Piece:
    data: bytes
    left_out: int


class Output:
    """Serves one LogRequest. `more` is told of each LogMore; cancel `run` when the reader is gone."""

    def __init__(
        self, env: Env, request: pb.LogRequest, send: Callable[[pb.FromWorker], Awaitable[None]]
    ) -> None:
        self._env = env
        self._request = request
        self._send = send
        self._allowed = request.window
        self._may_send = asyncio.Event()
        self._may_send.set()
        self._held: deque[_Piece] = deque()
        self._held_bytes = 0
        self._left_out = 0
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._is_whole = False
        self._error = ""

    def more(self, count: int) -> None:
        """The reader has taken so many bytes."""
        self._allowed += count
        if self._allowed > 0:
            self._may_send.set()

    async def run(self, chunks: Chunks) -> None:
        """Send all of it, and how it ended. Raises what `send` raises."""
        async with aclosing(chunks):
            if self._request.follow:
                await self._follow(chunks)
            else:
                await self._send_all(chunks)
        await self._chunk(done=True, error=self._error, left_out=self._left_out)

    async def _send_all(self, chunks: Chunks) -> None:
        try:
            async for chunk in chunks:
                await self._send_when_taken(_Piece(chunk, 0))
        except RuntimeRefusal as refusal:
            self._error = refusal.reason

    async def _follow(self, chunks: Chunks) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._hold_all(chunks))
                while (piece := await self._next()) is not None:
                    await self._send_when_taken(piece)
        except* OSError as errors:
            go_on_unless_cancelled()
            raise errors.exceptions[0] from None

    async def _hold_all(self, chunks: Chunks) -> None:
        try:
            async for chunk in chunks:
                await self._hold(chunk)
        except RuntimeRefusal as refusal:
            self._error = refusal.reason
        finally:
            self._is_whole = True
            self._news.set()

    async def _hold(self, chunk: bytes) -> None:
        if self._held_bytes >= HELD_BYTES and not self._left_out:
            self._room.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await self._room.wait()
        if self._held_bytes >= HELD_BYTES:
            self._left_out += chunk.count(b"\n") or 1
            return
        self._held.append(_Piece(chunk, self._left_out))
        self._held_bytes += len(chunk)
        self._left_out = 0
        self._news.set()

    async def _next(self) -> _Piece | None:
        """None: there is no more."""
        if not self._held and self._left_out:  # all of it was taken: time to say what is missing
            left_out, self._left_out = self._left_out, 0
            return _Piece(b"", left_out)
        while not self._held:
            if self._is_whole:
                return None
            self._news.clear()
            await self._news.wait()
        piece = self._held.popleft()
        self._held_bytes -= len(piece.data)
        if self._held_bytes < HELD_BYTES:
            self._room.set()
        return piece

    async def _send_when_taken(self, piece: _Piece) -> None:
        await self._may_send.wait()
        if self._request.window:
            self._allowed -= len(piece.data)
            if self._allowed <= 0:
                self._may_send.clear()
        await self._chunk(data=piece.data, left_out=piece.left_out)

    async def _chunk(
        self, *, data: bytes = b"", left_out: int = 0, done: bool = False, error: str = ""
    ) -> None:
        chunk = pb.LogChunk(
            request=self._request.request,
            data=data,
            left_out=left_out,
            done=done,
            error=error,
            at=self._env.now(),
        )
        await self._send(pb.FromWorker(log_chunk=chunk))
