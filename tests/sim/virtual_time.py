"""An asyncio loop whose clock jumps to the next timer instead of waiting for it.

Nothing in a simulation touches a file descriptor, so when no callback is ready the time of the next
timer has come. With no timer either, everybody waits for ever: that is an error, not a hang.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Deadlock(Exception):
    """No callback is ready and no timer is set."""


class _Selector(selectors.SelectSelector):
    loop: "VirtualLoop"

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Deadlock
        self.loop.advance(timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Starts at 0 seconds."""

    def __init__(self) -> None:
        self._seconds = 0.0
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self._seconds

    def advance(self, seconds: float) -> None:
        if seconds > 0:
            # A hair more than asked: a timer must not be early by a rounding error, for ever.
            self._seconds += seconds + 1e-9


def run_virtual(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)
