"""Being told that a process ended, child or not: a pidfd on the loop, or a look now and then."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable

from orca_worker.runtime.process import table
from orca_worker.runtime.process.folder import State

POLL_SECONDS = 0.2


def on_end(pid: int, start: int, call: Callable[[], None]) -> Callable[[], None]:
    """Have `call` run on the loop once, when this very process has ended; returns the way out."""
    loop = asyncio.get_running_loop()
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return loop.call_soon(call).cancel
    except OSError:  # an older kernel, or no descriptor left
        return _poll(pid, start, call)
    if not table.lives(pid, start):
        os.close(fd)
        return loop.call_soon(call).cancel
    is_open = True

    def stop() -> None:
        nonlocal is_open
        if is_open:
            is_open = False
            loop.remove_reader(fd)
            os.close(fd)

    def ended() -> None:
        stop()
        table.lives(pid, start)  # reaps it, if it was our child
        call()

    loop.add_reader(fd, ended)
    return stop


def _poll(pid: int, start: int, call: Callable[[], None]) -> Callable[[], None]:
    loop = asyncio.get_running_loop()

    def look() -> None:
        if table.lives(pid, start):
            timers.append(loop.call_later(POLL_SECONDS, look))
            del timers[0]
        else:
            call()

    timers = [loop.call_later(POLL_SECONDS, look)]
    return lambda: timers[0].cancel()


async def ended_within(state: State, seconds: float) -> bool:
    """Wait for the end of a task's shim, which is the end of the task."""
    ended = asyncio.Event()
    stop = on_end(state.shim, state.shim_start, ended.set)
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await ended.wait()
        return ended.is_set()
    finally:
        stop()


class Watch:
    """The ids of followed tasks as they end. Holds each id once, so it cannot overflow."""

    def __init__(self) -> None:
        self._following: dict[str, Callable[[], None]] = {}
        self._ended: dict[str, None] = {}
        self._news = asyncio.Event()

    def follow(self, task_id: str, state: State) -> None:
        """Also tell when this one ends."""
        if task_id not in self._following:
            self._following[task_id] = on_end(
                state.shim, state.shim_start, lambda: self._tell(task_id)
            )

    @property
    def followed(self) -> list[str]:
        """The tasks that have not ended."""
        return list(self._following)

    def close(self) -> None:
        """Follow nothing any more."""
        for stop in self._following.values():
            stop()
        self._following.clear()

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        while not self._ended:
            self._news.clear()
            await self._news.wait()
        task_id = next(iter(self._ended))
        del self._ended[task_id]
        return task_id

    def _tell(self, task_id: str) -> None:
        self._following.pop(task_id, None)
        self._ended[task_id] = None
        self._news.set()
