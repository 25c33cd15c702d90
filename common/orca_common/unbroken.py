"""Reads and writes of a stream that outlive whoever waits for them.

A gRPC stream ends when the wait for one of its reads or writes is cancelled. Here the wait ends alone: what
was begun goes on, and the next who asks takes it over. For one stream whose users change.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Reads(Generic[T]):
    """One reader at a time."""

    def __init__(self, read: Callable[[], Awaitable[T]]) -> None:
        self._read = read
        self._begun: asyncio.Task[T] | None = None

    async def next(self) -> T:
        """What was read; also what was begun for somebody who is gone. Raises what `read` does."""
        if self._begun is None:
            self._begun = _begin(self._read())
        begun = self._begun
        await asyncio.wait({begun})
        self._begun = None
        return begun.result()

    def close(self) -> None:
        """The stream is over; nobody asks any more."""
        if self._begun is not None:
            self._begun.cancel()


class Writes(Generic[T]):
    """One write at a time, in the order of the calls."""

    def __init__(self, write: Callable[[T], Awaitable[None]]) -> None:
        self._write = write
        self._turn = asyncio.Lock()
        self._begun: asyncio.Task[None] | None = None

    async def send(self, message: T) -> None:
        """Raises what `write` does."""
        async with self._turn:
            if self._begun is not None:  # of somebody who is gone
                await asyncio.wait({self._begun})
            self._begun = begun = _begin(self._write(message))
            await asyncio.wait({begun})
            self._begun = None
            begun.result()

    def close(self) -> None:
        """The stream is over; nobody asks any more."""
        if self._begun is not None:
            self._begun.cancel()


def _begin(work: Awaitable[T]) -> asyncio.Task[T]:
    async def run() -> T:
        return await work

    task = asyncio.get_running_loop().create_task(run())
    task.add_done_callback(_look_at_its_error)
    return task


def _look_at_its_error(task: "asyncio.Task[T]") -> None:
    """Nobody may be left who would; asyncio complains of errors that nobody has seen."""
    if not task.cancelled():
        task.exception()
