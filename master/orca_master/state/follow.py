"""How the rest hears of commits: `Follower` (level: look again) and `Feed` (every change, in order)."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from orca_master.state.history.event import Event
from orca_master.state.rows import State
from orca_master.state.table import Key
from orca_master.state.transaction import Changes


@dataclass(frozen=True, slots=True)
class Changed:
    """Which rows may have changed since the last look. `everything` says: look at all of them."""

    everything: bool = False
    keys: dict[str, set[Key]] = field(default_factory=dict)

    def of(self, table: str) -> set[Key]:
        return self.keys.get(table, set())


class Follower:
    """Wakes one loop when rows of its tables have changed. Use as a context; call `next` in a loop.

    The first `next` returns at once with `everything`, so a loop that was just started (after a
    fail-over, say) needs no code of its own for that. Wake-ups coalesce; nothing is ever missed.
    """

    def __init__(self, followers: "dict[Follower, None]", tables: frozenset[str]) -> None:
        self._followers = followers
        self._tables = tables
        self._pending = Changed(everything=True)
        self._wake = asyncio.Event()
        self._wake.set()

    def __enter__(self) -> Self:
        self._followers[self] = None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._followers.pop(self, None)

    async def next(self, timeout: float | None = None) -> Changed:
        """What changed since the last call; an empty `Changed` after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()
        changed, self._pending = self._pending, Changed()
        return changed

    def notify(self, changes: Changes) -> None:
        for table, key in changes:
            if table in self._tables:
                self._pending.keys.setdefault(table, set()).add(key)
                self._wake.set()

    def notify_everything(self) -> None:
        self._pending = Changed(everything=True)
        self._wake.set()


@dataclass(frozen=True, slots=True)
class Commit:
    """One committed entry: the states before and after it, which rows it wrote, and what it recorded."""

    before: State
    after: State
    changes: Changes
    recorded: Sequence[Event] = ()


class FeedOverrun(Exception):
    """The subscriber was too slow (or the state was replaced by a snapshot): commits are missing."""


class Feed:
    """Every commit, in order, for streams to the outside. Bounded: a slow subscriber is cut off."""

    def __init__(self, feeds: "dict[Feed, None]", limit: int) -> None:
        self._feeds = feeds
        self._limit = limit
        self._commits: deque[Commit] = deque()
        self._overrun = False
        self._wake = asyncio.Event()

    def __enter__(self) -> Self:
        self._feeds[self] = None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._feeds.pop(self, None)

    async def next(self) -> Commit:
        """The next commit. Raises FeedOverrun once, after which the feed goes on from now."""
        while not self._commits and not self._overrun:
            self._wake.clear()
            await self._wake.wait()
        if self._overrun:
            self._overrun = False
            raise FeedOverrun
        return self._commits.popleft()

    def push(self, commit: Commit) -> None:
        if len(self._commits) >= self._limit:
            self.cut()
        else:
            self._commits.append(commit)
        self._wake.set()

    def cut(self) -> None:
        self._commits.clear()
        self._overrun = True
        self._wake.set()
