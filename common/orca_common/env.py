"""The only door to the outside: clock, randomness, disk and threads.

Everything in Orca that is not an adapter receives an `Env` and reads the world through it. That is
what lets one test process run a whole cluster in virtual time on a faulty disk. The real one is in
`orca_common.real`; the simulated one lives with the tests. Waiting is `asyncio.sleep` and
`asyncio.timeout`, which follow the loop's clock, virtual or not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

T = TypeVar("T")


class Clock(Protocol):
    """`now` is Unix seconds and may jump; `monotonic` is seconds since some start and never goes back.

    `boottime` is as that, and runs also while the machine is suspended; all processes have the same.
    `thread_time` is the processor seconds that the calling thread has used: a busy machine adds none.
    """

    def now(self) -> float: ...
    def monotonic(self) -> float: ...
    def boottime(self) -> float: ...
    def thread_time(self) -> float: ...


class Randomness(Protocol):
    """Ids, secrets and jitter."""

    def token_bytes(self, size: int) -> bytes: ...
    def uniform(self, low: float, high: float) -> float: ...


class AppendFile(Protocol):
    """A file that only grows. What `write` took is durable when `sync` has returned."""

    def write(self, data: bytes) -> None: ...
    def sync(self) -> None: ...
    def truncate(self, size: int) -> None: ...
    def close(self) -> None: ...


class ReadFile(Protocol):
    """A file read from its beginning; it stays readable when its name goes away."""

    def read(self, size: int) -> bytes:
        """The next bytes, at most `size`; empty at the end."""
        ...

    def close(self) -> None: ...


class Disk(Protocol):
    """A folder tree. Paths are absolute strings. Every verb raises OSError as the system does.

    A new, renamed or removed name is durable only after `sync_folder` of its parent.
    """

    def make_folders(self, path: str) -> None: ...
    def list(self, folder: str) -> list[str]: ...
    def exists(self, path: str) -> bool: ...
    def read(self, path: str) -> bytes: ...
    def size(self, path: str) -> int: ...
    def open_read(self, path: str) -> ReadFile: ...
    def open_append(self, path: str) -> AppendFile: ...
    def rename(self, source: str, target: str) -> None: ...
    def remove(self, path: str) -> None: ...
    def sync_folder(self, path: str) -> None: ...
    def lock(self, path: str) -> Callable[[], None]:
        """Take the file as an exclusive lock and return its release. BlockingIOError: it is taken."""
        ...


class Threads(Protocol):
    """Runs blocking work off the event loop (in the simulation: inline)."""

    async def run(self, work: Callable[[], T]) -> T: ...


@dataclass(frozen=True, slots=True)
class Env:
    clock: Clock
    random: Randomness
    disk: Disk
    threads: Threads

    def now(self) -> float:
        return self.clock.now()

    def monotonic(self) -> float:
        return self.clock.monotonic()

    def boottime(self) -> float:
        return self.clock.boottime()

    def thread_time(self) -> float:
        return self.clock.thread_time()

    def new_id(self) -> str:
        """16 lower-case hex digits: unguessable enough for a name, short enough for a terminal."""
        return self.random.token_bytes(8).hex()
