"""Running a daemon's coroutine: signals to cancellation, mistakes to an exit code and one sentence."""

import asyncio
import gc
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

from orca_common.logs import get_logger
from orca_common.notify import notify

USAGE_EXIT = 2
FAILED_EXIT = 1
REMOVED_EXIT = 3
"""This master or node was removed from the cluster: starting it again makes no sense."""

log = get_logger("daemon")


class Hangup:
    """What is read again at SIGHUP, without anything being stopped."""

    def __init__(self) -> None:
        self._works: dict[str, Callable[[], None]] = {}

    def on(self, what: str, work: Callable[[], None]) -> None:
        """`work` raises OSError or ValueError where what was changed is no good: the old stays."""
        self._works[what] = work

    def __call__(self) -> None:
        notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        for what, work in self._works.items():
            try:
                work()
            except (OSError, ValueError) as error:
                log.error("not reloaded; it stays as it was", what=what, reason=str(error))
            else:
                log.info("reloaded", what=what)
        notify("READY=1")


async def until_signalled(work: Coroutine[Any, Any, None], *, hangup: Hangup | None = None) -> None:
    """Run the work until it ends or SIGTERM or SIGINT comes; then cancel it and wait for its end."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if hangup is not None:
        loop.add_signal_handler(signal.SIGHUP, hangup)
    async with asyncio.TaskGroup() as group:
        working = group.create_task(work)
        waiting = group.create_task(stop.wait())
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        working.cancel()
        waiting.cancel()


def settle_memory() -> None:
    """Once, when a daemon has loaded everything: what lives for ever is not looked at again.

    A full collection over a large state stops the loop for hundreds of milliseconds (measured:
    310 ms at 250,000 rows); with these thresholds it is rare, and cycles are few here.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def leave(message: str, code: int) -> "int":
    """Say why on standard error; returns the exit code."""
    print(f"error: {message}", file=sys.stderr)  # noqa: T201
    return code


def causes(error: BaseException) -> list[BaseException]:
    """The leaves of an exception group, or the error itself."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in causes(each)]
    return [error]
