"""The history of a master: takes in what the log brings, answers queries, fetches what is missing.

The store pushes each entry's events here as it applies the entry; a worker thread writes them. Before
a snapshot of the log is whole, they are durable (`synced`), so the log brings again whatever a crash
took. A snapshot that arrives from another master leaves a gap: its events are fetched from other
masters, and shown only when the chain has proved all of them.
"""

import asyncio
import errno
import posixpath
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from threading import Lock
from typing import Protocol, TypeVar

from orca_common.env import Env
from orca_common.logs import get_logger
from orca_master.errors import NotReady, OrcaError, StorageFull
from orca_master.state.history.event import BEGINNING, Event, Head, verified
from orca_master.state.history.file import (
    Batch,
    DamagedHistory,
    Gap,
    HistoryFile,
    Position,
    Step,
    set_aside,
)

T = TypeVar("T")

STEPS_PER_COMMIT = 1_000
EVENTS_PER_BATCH = 200
LARGEST_QUERY = 1_000
GATHER_SECONDS = 0.05
"""Events wait so long to be written together: many small commits would cost the event loop time."""
BATCH_SECONDS = 30.0
RETRY_SECONDS = 10.0
BEHIND_BYTES = 64 << 20
"""So much may wait to be written before nothing more is recorded."""
WHAT_TO_DO = (
    "There is no other master to fetch it from. Put back the history file of a backup that is not"
    " older than the log's newest snapshot, then start again"
)

log = get_logger("state.history")


class HistorySource(Protocol):
    """Another master's history, as it is asked for."""

    @property
    def name(self) -> str: ...

    def events(self, after: int, up_to: int) -> AsyncIterator[Sequence[Event]]:
        """All events of versions behind `after`, up to and with `up_to`, in order, in batches.

        Raises NotReady if it has not got all of them, and whatever its transport raises (OSError).
        """
        ...


class History:
    """One per master. `sources` are the other masters at the time; None: there are none, ever."""

    def __init__(
        self,
        env: Env,
        path: str,
        *,
        sources: Callable[[], Sequence[HistorySource]] | None = None,
    ) -> None:
        self._env = env
        self._path = path
        self._sources = sources
        self._brought: deque[Step] = deque()
        self._bytes_brought = 0
        self._newest = 0
        self._news = asyncio.Event()
        self._wake = asyncio.Event()
        self._gap_found = asyncio.Event()
        # What follows is the worker threads', under the lock.
        self._lock = Lock()
        self._steps: deque[Step] = deque()
        self._bytes_taken = 0
        self._file: HistoryFile | None = None

    # The store's side: what the log brings, from the event loop.

    def push(self, before: Head, events: Sequence[Event]) -> None:
        """An entry with these events was applied, where the history stood at `before`."""
        self._brought.append(Batch(before, events))
        self._bytes_brought += _size(events)
        self._wake.set()
        if events:
            self._tell(events[-1].version)

    def jump(self, head: Head) -> None:
        """The state was replaced by a snapshot after which the history stands at `head`."""
        self._brought.append(head)
        self._wake.set()
        self._tell(head.version)

    def _tell(self, version: int) -> None:
        self._newest = version
        news, self._news = self._news, asyncio.Event()
        news.set()

    @property
    def is_behind(self) -> bool:
        """Whether so much waits (for a full disk, say) that nothing more should be recorded."""
        return self._bytes_brought - self._bytes_taken > BEHIND_BYTES

    @property
    def is_whole(self) -> bool:
        """Whether no events are known to be missing here."""
        return self._file is not None and self._file.gap is None

    def synced(self, parts: Iterator[bytes]) -> Iterator[bytes]:
        """The parts of a snapshot; the last comes when all that was brought so far is durable.

        Runs wherever the log writes its snapshots. Raises OSError, DamagedHistory.
        """
        held = next(parts)
        for part in parts:
            yield held
            held = part
        with self._lock:
            if self._file is None:
                raise OSError(errno.ESHUTDOWN, "the history is closed", self._path)
            self._write_brought()
            self._file.sync()
        yield held

    async def start(self) -> None:
        """Open the file and take in what the log brought at its start.

        Raises DamagedHistory if it can be neither used nor fetched again, StorageFull, and OSError.
        """
        self._env.disk.make_folders(posixpath.dirname(self._path))
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise

    async def _start(self) -> None:
        await self._in_thread(self._open)
        gap = await self._in_thread(lambda: self._written().gap)
        if gap is None:
            return
        if self._sources is None:
            raise DamagedHistory(
                f"{self._path} lacks the events from version {gap.after.version} to"
                f" {gap.up_to.version}. {WHAT_TO_DO}"
            )
        self._gap_found.set()

    async def run(self) -> None:
        """Write and fetch, until cancelled; a full disk is waited for. Raises DamagedHistory, OSError."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._write(), name="history writer")
            if self._sources is not None:
                group.create_task(self._fill_gaps(self._sources), name="history gaps")

    async def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._file = None

    async def query(
        self,
        *,
        kind: str | None = None,
        subject: str | None = None,
        after: Position | None = None,
        before: Position | None = None,
        limit: int = 100,
    ) -> list[Event]:
        """Events between two positions (neither included), newest first; everything applied here
        before the call is among them. The last one's position is the `before` of the next page.

        Raises ValueError for a limit outside 1 to 1,000, NotReady while events are missing, and
        StorageFull if what was applied cannot be written.
        """
        if not 1 <= limit <= LARGEST_QUERY:
            raise ValueError(f"limit must be 1 to {LARGEST_QUERY}")

        def select() -> list[Event]:
            return self._whole().select(
                kind=kind, subject=subject, after=after, before=before, limit=limit
            )

        return await self._read(select)

    async def beyond(self, version: int) -> int:
        """Wait for events that are newer than this version. Returns the newest's."""
        while self._newest <= version:
            await self._news.wait()
        return self._newest

    async def events(self, after: int, up_to: int) -> AsyncIterator[Sequence[Event]]:
        """For another master: see `HistorySource.events`."""
        position = (after + 1, 0)
        while True:
            batch = await self._read(partial(self._range, position, up_to))
            if not batch:
                return
            yield batch
            position = (batch[-1].version, batch[-1].n)

    # In a worker thread, under the lock.

    def _open(self) -> None:
        try:
            self._file = HistoryFile(self._env.disk, self._path)
        except DamagedHistory as damage:
            self._start_over(BEGINNING, damage)

    def _written(self) -> HistoryFile:
        """The file, with everything in it that was brought."""
        self._write_brought()
        if self._file is None:
            raise NotReady("this master is stopping")
        return self._file

    def _whole(self) -> HistoryFile:
        file = self._written()
        if file.gap is not None:
            raise NotReady(
                f"this master still fetches the history of versions {file.gap.after.version} to"
                f" {file.gap.up_to.version} from others: ask again later, or another master"
            )
        return file

    def _range(self, start: Position, up_to: int) -> list[Event]:
        file = self._whole()
        if file.last.version < up_to:
            raise NotReady(f"this master's history has not come to version {up_to} yet")
        return file.select(
            after=start, before=(up_to + 1, 0), limit=EVENTS_PER_BATCH, newest_first=False
        )

    def _write_brought(self) -> None:
        while self._brought:
            self._steps.append(self._brought.popleft())
        while self._steps and self._file is not None:
            steps = list(islice(self._steps, STEPS_PER_COMMIT))
            try:
                self._file.take(steps)
            except DamagedHistory as damage:
                first = steps[0]
                self._start_over(first.before if isinstance(first, Batch) else first, damage)
                continue
            for step in steps:
                self._steps.popleft()
                if isinstance(step, Batch):
                    self._bytes_taken += _size(step.events)

    def _start_over(self, head: Head, damage: DamagedHistory) -> None:
        """Put the file aside and begin another, in which everything up to `head` is missing."""
        if self._sources is None:
            raise DamagedHistory(f"{damage}. {WHAT_TO_DO}") from damage
        if self._file is not None:
            self._file.close()
        aside = set_aside(self._env.disk, self._path)
        log.error("the history is fetched anew from other masters", why=str(damage), aside=aside)
        self._file = HistoryFile(self._env.disk, self._path)
        self._file.take([head])

    def _arrive(self, chain: bytes, events: Sequence[Event], up_to: Head) -> bytes:
        """Keep what a source gave, unseen; the chain's value after it. Raises ValueError."""
        checked = list(verified(chain, events))
        if any(event.version > up_to.version for event in checked):
            raise ValueError(f"an event behind version {up_to.version} was not asked for")
        if self._file is not None:
            self._file.arrive(checked)
        return checked[-1].chain if checked else chain

    def _close_gap(self, gap: Gap) -> None:
        if self._file is not None:
            self._file.close_gap(gap)

    def _forget_arrived(self) -> None:
        if self._file is not None:
            self._file.forget_arrived()

    def _fetch_all(self, file: HistoryFile | None, why: DamagedHistory) -> None:
        if file is not None and file is self._file:  # else somebody else saw the damage first
            self._start_over(file.last, why)

    # On the event loop.

    async def _in_thread(self, work: Callable[[], T]) -> T:
        def locked() -> T:
            with self._lock:
                return work()

        try:
            return await self._env.threads.run(locked)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise StorageFull(
                "the master's disk is full, its history cannot be written: make space"
            ) from error

    async def _read(self, select: Callable[[], T]) -> T:
        file = self._file
        try:
            return await self._in_thread(select)
        except DamagedHistory as damage:
            await self._in_thread(partial(self._fetch_all, file, damage))
        self._gap_found.set()
        raise NotReady("this master's history is damaged and is fetched anew: ask another master")

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(GATHER_SECONDS)
            self._wake.clear()
            try:
                await self._in_thread(self._write_brought)
            except StorageFull as error:
                await self._pause(str(error))
                self._wake.set()
            if self._file is not None and self._file.gap is not None:
                self._gap_found.set()

    async def _fill_gaps(self, sources: Callable[[], Sequence[HistorySource]]) -> None:
        while True:
            await self._gap_found.wait()
            self._gap_found.clear()
            while (file := self._file) is not None and (gap := file.gap) is not None:
                try:
                    if not await self._fill(gap, sources()):
                        await self._pause("no other master could give what is missing here")
                except StorageFull as error:
                    await self._pause(str(error))
                except DamagedHistory as damage:
                    await self._in_thread(partial(self._fetch_all, file, damage))

    async def _pause(self, why: str) -> None:
        seconds = self._env.random.uniform(0.5, 1.0) * RETRY_SECONDS
        log.warning("the history waits", why=why, next_try_seconds=round(seconds))
        await asyncio.sleep(seconds)

    async def _fill(self, gap: Gap, sources: Sequence[HistorySource]) -> bool:
        """Whether one of them filled the gap. Raises DamagedHistory if all contradict this master."""
        liars = 0
        for source in sources:
            await self._in_thread(self._forget_arrived)
            try:
                await self._fill_from(source, gap)
            except StorageFull:
                raise
            except ValueError as lie:
                liars += 1
                log.error("a master's history is refused", source=source.name, why=str(lie))
            except (OSError, OrcaError, TimeoutError) as error:
                log.warning("a master cannot give its history", source=source.name, why=str(error))
            else:
                log.info("history was fetched", source=source.name, up_to=gap.up_to.version)
                return True
        if liars and liars == len(sources) and gap.after != BEGINNING:
            raise DamagedHistory(f"{self._path} fits to no other master's history")
        return False

    async def _fill_from(self, source: HistorySource, gap: Gap) -> None:
        """Raises ValueError if the source gives something else than what the log's chain says."""
        chain = gap.after.chain
        batches = source.events(gap.after.version, gap.up_to.version)
        while True:
            async with asyncio.timeout(BATCH_SECONDS):
                batch = await anext(batches, None)
            if batch is None:
                break
            chain = await self._in_thread(partial(self._arrive, chain, batch, gap.up_to))
        if chain != gap.up_to.chain:
            raise ValueError(f"it does not lead to version {gap.up_to.version} of the log's chain")
        await self._in_thread(lambda: self._close_gap(gap))


def _size(events: Sequence[Event]) -> int:
    return sum(len(event.data) + len(event.subject) for event in events)
