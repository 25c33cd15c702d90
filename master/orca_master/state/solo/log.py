"""`SoloLog`: the log of one master. Every proposal is durable on its disk before it is applied.

It always leads, with a term that every start raises: the first record of a start is an empty one of
the new term. Whoever waits together is written together (one write, one fdatasync), by `run`.
"""

import asyncio
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Lock

from orca_common.env import Env
from orca_common.logs import get_logger
from orca_master.errors import NotLeader, OutcomeUnknown, StorageFull
from orca_master.state.log import DamagedLog, Leadership, LogFailed, Machine, restore
from orca_master.state.solo import folder as folders
from orca_master.state.solo.pace import Pace
from orca_master.state.solo.segments import WHAT_TO_DO, Entry, NoSpace, Segments
from orca_master.state.solo.snapshots import Snapshots
from orca_master.state.space import is_full

GROUP_BYTES = 4 << 20
SNAPSHOT_RETRY_SECONDS = 30.0

log = get_logger("state.solo")


@dataclass(slots=True)
class _Proposal:
    entry: bytes
    answer: "asyncio.Future[bool]"


class SoloLog:
    """`Log` on one disk. The folder is this log's alone, and it is created if it is not there.

    A snapshot is taken after so many entries or bytes of them, whichever comes first. Files of about
    `segment_bytes` are removed when the older of the two kept snapshots needs none of their entries.
    """

    def __init__(
        self,
        env: Env,
        folder: str,
        *,
        cluster_id: str,
        member_name: str,
        segment_bytes: int = 64 << 20,
        snapshot_every_entries: int = 50_000,
        snapshot_bytes: int = 64 << 20,
    ) -> None:
        self._env = env
        self._folder = folder
        self._identity = folders.Identity(cluster=cluster_id, member=member_name)
        self._segment_bytes = segment_bytes
        self._snapshot_every_entries = snapshot_every_entries
        self._snapshot_bytes = snapshot_bytes
        self._index = 0
        self._term = 0
        self._entries_since_snapshot = 0
        self._bytes_since_snapshot = 0
        self._pace = Pace()
        self._writing_since: float | None = None
        # As long as there are callers waiting; the store waits for one at a time.
        self._proposals: deque[_Proposal] = deque()
        self._under_way: list[_Proposal] = []
        self._wake = asyncio.Event()
        self._snapshot_due = asyncio.Event()
        self._leads = False
        self._failure: LogFailed | None = None
        self._held = ExitStack()
        # A compaction goes on in its thread when `run` is cancelled: `close` keeps the folder till then.
        self._compacting = Lock()
        self._stopped = asyncio.Event()

    async def start(self, machine: Machine) -> None:
        """See `Log.start`. It reads on the loop: nothing else is served before it is done."""
        disk = self._env.disk
        self._machine = machine
        folders.make_private_folder(disk, self._folder)
        self._held.callback(folders.lock(disk, self._folder))
        try:
            self._open()
        except BaseException as error:
            self._held.close()
            if isinstance(error, NoSpace) or (isinstance(error, OSError) and is_full(error)):
                raise StorageFull(
                    f"the log in {self._folder} has no space to begin a term: {error}"
                ) from error
            raise

    async def run(self) -> None:
        """See `Log.run`."""
        failure: LogFailed | None = None
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._write(), name="solo log writer")
                group.create_task(self._take_snapshots(), name="solo log snapshots")
        except BaseExceptionGroup as failures:
            failure = next((e for e in failures.exceptions if isinstance(e, LogFailed)), None)
            if failure is None:
                raise
        finally:
            self._stop(failure)
        if failure is not None:
            raise failure

    async def propose(self, entry: bytes) -> bool:
        """See `Log.propose`."""
        if not entry:
            raise ValueError("an entry is not empty")
        self._check_running()
        proposal = _Proposal(entry, asyncio.get_running_loop().create_future())
        self._proposals.append(proposal)
        self._wake.set()
        return await proposal.answer

    async def barrier(self) -> None:
        """See `Log.barrier`. What one master has acknowledged it has applied, so nothing is waited for."""
        self._check_running()

    @property
    def leadership(self) -> Leadership:
        leader = self._identity.member if self._leads else None
        return Leadership(self._term, self._leads, leader)

    async def leadership_change(self, seen: Leadership) -> Leadership:
        """See `Log.leadership_change`. The only change there is: this log stops."""
        if self.leadership == seen:
            await self._stopped.wait()
        if self.leadership == seen:
            await asyncio.get_running_loop().create_future()
        return self.leadership

    @property
    def age(self) -> float:
        """See `Log.age`. There is nobody else who could have something newer."""
        return 0.0

    @property
    def stalled(self) -> float:
        """See `Log.stalled`."""
        since = self._writing_since
        return 0.0 if since is None else self._env.monotonic() - since

    async def close(self) -> None:
        """Let go of the folder. Everything acknowledged is durable already."""
        self._stop(None)
        with self._compacting:
            self._held.close()

    # Starting.

    def _open(self) -> None:
        disk = self._env.disk
        self._snapshots = Snapshots(self._env, self._folder)
        self._segments = Segments(self._env, self._folder, segment_bytes=self._segment_bytes)
        self._held.callback(self._segments.close)
        if folders.is_identified(disk, self._folder):
            folders.check_identity(disk, self._folder, self._identity)
            self._snapshots.remove_temporary()
            self._recover()
        else:
            self._create()
        self._term += 1
        self._append([Entry(self._index + 1, self._term, b"")])
        self._index += 1
        self._leads = True

    def _create(self) -> None:
        if self._snapshots.exist or self._segments.hold_records():
            raise DamagedLog(
                f"{self._folder} holds a log, but its identity file is gone. {WHAT_TO_DO}"
            )
        self._segments.create()
        folders.write_identity(self._env, self._folder, self._identity)

    def _recover(self) -> None:
        snapshot, damages = self._snapshots.newest_whole()
        after = 0 if snapshot is None else snapshot.index
        if damages and not self._segments.cover(after):
            raise DamagedLog(
                f"{damages[0]} No older snapshot is whole and followed by all entries. {WHAT_TO_DO}"
            )
        for damage in damages:
            log.warning("a snapshot is damaged; an older state and the log replace it: %s", damage)
        if snapshot is not None:
            try:
                restore(self._machine, snapshot.parts)
            except ValueError as error:
                raise DamagedLog(
                    f"snapshot {after} in {self._folder} is as it was written, but cannot be "
                    f"restored: {error}. Was it written by a newer version?"
                ) from error
            self._index, self._term = snapshot.index, snapshot.term
        for record in self._segments.replay(after):
            self._index, self._term = record.index, record.term
            self._apply(record.payload)
        if damages:
            self._snapshots.set_aside(newer_than=after)

    # Writing.

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._proposals:
                await self._commit(self._next_group())

    def _next_group(self) -> list[_Proposal]:
        group: list[_Proposal] = []
        size = 0
        while self._proposals and size < GROUP_BYTES:
            proposal = self._proposals.popleft()
            if not proposal.answer.done():  # else its caller has gone away
                group.append(proposal)
                size += len(proposal.entry)
        return group

    async def _commit(self, group: list[_Proposal]) -> None:
        if not group:
            return
        entries = [
            Entry(self._index + number, self._term, proposal.entry)
            for number, proposal in enumerate(group, 1)
        ]
        self._under_way = group
        self._writing_since = self._env.monotonic()
        try:
            if self._pace.is_slow:
                await self._env.threads.run(lambda: self._append(entries))
            else:
                self._append(entries)
        except NoSpace as error:
            log.warning("the disk is full; the proposal was taken back", reason=str(error))
            for proposal in group:
                _refuse(
                    proposal,
                    StorageFull(f"the master's disk is full ({error}); nothing was changed"),
                )
            self._under_way = []
            return
        except OSError as error:
            raise LogFailed(f"the log cannot be written: {error}") from error
        finally:
            self._writing_since = None
        for proposal in group:
            self._index += 1
            answer = self._apply(proposal.entry)
            if not proposal.answer.done():
                proposal.answer.set_result(answer)
        self._under_way = []

    def _append(self, entries: list[Entry]) -> None:
        started = self._env.monotonic()
        self._segments.append(entries)
        self._pace.took(self._env.monotonic() - started)

    def _apply(self, entry: bytes) -> bool:
        self._entries_since_snapshot += 1
        self._bytes_since_snapshot += len(entry)
        if (
            self._entries_since_snapshot >= self._snapshot_every_entries
            or self._bytes_since_snapshot >= self._snapshot_bytes
        ):
            self._snapshot_due.set()
        if not entry:  # it only begins a term
            return True
        try:
            return self._machine.apply(entry)
        except Exception as error:
            raise LogFailed(f"entry {self._index} cannot be applied: {error}") from error

    # Snapshots.

    async def _take_snapshots(self) -> None:
        while True:
            await self._snapshot_due.wait()
            try:
                await self._take_snapshot()
            except OSError as error:
                if not is_full(error):
                    raise LogFailed(f"a snapshot cannot be written: {error}") from error
                pause = self._env.random.uniform(0.5, 1.0) * SNAPSHOT_RETRY_SECONDS
                log.warning(
                    "no space for a snapshot; the log keeps growing",
                    reason=str(error),
                    next_try_seconds=round(pause),
                )
                await asyncio.sleep(pause)

    async def _take_snapshot(self) -> None:
        index, term, parts = self._index, self._term, self._machine.capture()
        entries, size = self._entries_since_snapshot, self._bytes_since_snapshot
        await self._snapshots.write(index=index, term=term, parts=parts)
        self._entries_since_snapshot -= entries
        self._bytes_since_snapshot -= size
        self._snapshot_due.clear()
        await self._env.threads.run(self._compact)
        log.info("snapshot was written", index=index, entries=entries)

    def _compact(self) -> None:
        with self._compacting:
            self._segments.drop_up_to(self._snapshots.needed_after())
            self._snapshots.drop_old()

    # Ending.

    def _check_running(self) -> None:
        if self._failure is not None:
            raise LogFailed(str(self._failure))
        if not self._leads:
            raise NotLeader("this master is stopping; nothing was changed")

    def _stop(self, failure: LogFailed | None) -> None:
        """Answer everybody who waits; those whose entry may be on disk are told just that."""
        self._failure = self._failure or failure
        self._leads = False
        self._stopped.set()
        for proposal in self._under_way:
            _refuse(
                proposal,
                LogFailed(str(failure))
                if failure is not None
                else OutcomeUnknown("this master stopped while it was writing the change"),
            )
        for proposal in self._proposals:
            _refuse(proposal, NotLeader("this master is stopping; nothing was changed"))
        self._under_way = []
        self._proposals.clear()


def _refuse(proposal: _Proposal, error: Exception) -> None:
    if not proposal.answer.done():
        proposal.answer.set_exception(error)
