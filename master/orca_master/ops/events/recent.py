"""The last things that happened, on this master: every reader of the stream reads them here.

Each master derives them from the commits that it applies, so all have the same ones. They are in memory
only, and bounded: what is older, or was before this master started, is a gap (`begin`) that the history
fills in part.
"""

import asyncio
from bisect import bisect_right
from operator import attrgetter

from orca_common.env import Env
from orca_master.ops.events.model import LAST_IN_VERSION, Happening, Position
from orca_master.ops.events.telling import happenings, tells
from orca_master.state.follow import Commit, FeedOverrun
from orca_master.state.store import Store

KEPT = 10_000
"""At least, and at most twice as many."""
BATCH = 200
AT_ONCE = 50
"""Told of one commit before others have their turn: it may have thousands."""

_position = attrgetter("position")


class Recent:
    """Keep `run` running. `begin`: everything that happened after it is here, up to `version`."""

    def __init__(self, env: Env, store: Store) -> None:
        self._env = env
        self._store = store
        self._kept: list[Happening] = []
        self._news = asyncio.Event()
        self.begin: Position = (0, 0)
        self.version = 0

    async def run(self) -> None:
        """Until cancelled."""
        with self._store.feed() as feed:
            self._start_over(self._store.state.version)
            while True:
                try:
                    commit = await feed.next()
                except FeedOverrun:
                    self._start_over(self._store.state.version)
                    continue
                if commit.after.version <= self.version:
                    continue
                if commit.before.version != self.version:
                    self._start_over(commit.before.version)
                await self._take(commit)

    def after(self, position: Position) -> list[Happening]:
        """The next ones, in order; none: there are no more yet."""
        start = bisect_right(self._kept, position, key=_position)
        return self._kept[start : start + BATCH]

    def last(self) -> list[Happening]:
        """All that are kept."""
        return list(self._kept)

    async def news(self) -> None:
        """Wait until `version` has grown."""
        await self._news.wait()

    async def _take(self, commit: Commit) -> None:
        found: list[Happening] = []
        if tells(commit):
            for each in happenings(commit, self._env.now()):
                found.append(each)
                if len(found) % AT_ONCE == 0:
                    await asyncio.sleep(0)
        self._kept += found
        self._forget_oldest()
        self.version = commit.after.version
        self._tell()

    def _forget_oldest(self) -> None:
        if len(self._kept) > 2 * KEPT:
            forgotten = len(self._kept) - KEPT
            self.begin = self._kept[forgotten - 1].position
            del self._kept[:forgotten]

    def _start_over(self, version: int) -> None:
        self._kept = []
        self.version = version
        self.begin = version, LAST_IN_VERSION
        self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()
