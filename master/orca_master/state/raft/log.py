"""`RaftLog`: the log of several masters. An entry is committed when a majority has it on disk.

The members are in the log itself (`members`): a new cluster is founded (`founding`), and whoever
joins starts with an empty folder and is added by the leader. The log never forwards. It is put together
here: the folder, the journal, the snapshots, the engine, its driver and the network. What is safe
about it is said in `protocol` and `driver`.
"""

import asyncio
from collections.abc import Mapping
from contextlib import ExitStack

from orca_common.env import Env
from orca_common.logs import get_logger
from orca_master.errors import Conflict, NotLeader, StorageFull
from orca_master.state.log import DamagedLog, Leadership, LogFailed, Machine
from orca_master.state.raft.codec import MAX_ENTRY_BYTES
from orca_master.state.raft.driver import Driver
from orca_master.state.raft.elections import Timing
from orca_master.state.raft.journal import Journal
from orca_master.state.raft.members import (
    NOBODY,
    Configuration,
    Member,
    Removed,
    with_address,
    with_learner,
    with_voter,
    without,
)
from orca_master.state.raft.meters import Meters
from orca_master.state.raft.port import Network
from orca_master.state.raft.protocol import Engine
from orca_master.state.raft.snapshot import Keeper, restored
from orca_master.state.raft.standing import Standing
from orca_master.state.raft.waiting import Edit
from orca_master.state.solo import folder as folders
from orca_master.state.solo.segments import WHAT_TO_DO, NoSpace
from orca_master.state.solo.snapshots import Snapshots
from orca_master.state.space import is_full

LARGEST_ENTRY_BYTES = MAX_ENTRY_BYTES - 64
TRANSFER_SECONDS = 0.3
CAUGHT_UP_ENTRIES = 1000
"""A learner that lacks more than that is not promoted: commits would wait for it."""

log = get_logger("state.raft")


class RaftLog:
    """`Log` on this master's disk and its peers'. The folder is this log's alone.

    On a folder that is not there it waits to be added by a leader; until it has heard who the
    members are, `first_peers` (id → "host:port") are whom it keeps connections to. A snapshot is
    taken after so many entries or bytes of them; as much stays in memory for followers that lag a
    little, others are sent the snapshot. `meters` is what it counts.
    """

    def __init__(
        self,
        env: Env,
        folder: str,
        *,
        cluster_id: str,
        node: str,
        network: Network,
        first_peers: Mapping[str, str] | None = None,
        timing: Timing | None = None,
        segment_bytes: int = 64 << 20,
        snapshot_every_entries: int = 50_000,
        snapshot_bytes: int = 64 << 20,
        kept_entries: int = 10_000,
        kept_bytes: int = 32 << 20,
        max_append_bytes: int = 1 << 20,
    ) -> None:
        self._first_peers = {i: a for i, a in (first_peers or {}).items() if i != node}
        self.meters = Meters()
        self._env = env
        self._folder = folder
        self._identity = folders.Identity(cluster=cluster_id, member=node)
        self._node = node
        self._network = network
        self._timing = timing or Timing()
        self._segment_bytes = segment_bytes
        self._snapshot_every_entries = snapshot_every_entries
        self._snapshot_bytes = snapshot_bytes
        self._kept_entries = kept_entries
        self._kept_bytes = kept_bytes
        self._max_append_bytes = max_append_bytes
        self._held = ExitStack()
        self._failure: LogFailed | None = None
        self._is_running = False
        self._is_closed = False

    async def start(self, machine: Machine) -> None:
        """See `Log.start`; entries after the snapshot are applied once a leader commits them again.

        It reads on the loop: nothing else is served before it is done.
        """
        disk = self._env.disk
        folders.make_private_folder(disk, self._folder)
        self._held.callback(folders.lock(disk, self._folder))
        try:
            self._open(machine)
        except BaseException as error:
            self._held.close()
            if isinstance(error, NoSpace) or (isinstance(error, OSError) and is_full(error)):
                raise StorageFull(f"the log in {self._folder} has no space: {error}") from error
            raise

    async def run(self) -> None:
        """See `Log.run`. Raises Removed when this master was removed and knows it."""
        failure: LogFailed | Removed | None = None
        self._is_running = True
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._network.run(), name="raft network")
                group.create_task(self._driver.drive(self._engine), name="raft driver")
                group.create_task(
                    self._driver.show_life(self._engine, every_seconds=self._timing.heartbeat / 2),
                    name="raft heartbeats",
                )
                group.create_task(self._driver.give_way(), name="raft give way")
                group.create_task(
                    self._keeper.run(self._engine, self._driver.in_turn), name="raft snapshots"
                )
        except BaseExceptionGroup as failures:
            ends = [e for e in failures.exceptions if isinstance(e, LogFailed | Removed)]
            failure = min(ends, key=lambda e: isinstance(e, Removed), default=None)
            if failure is None:
                raise
        finally:
            self._stop(failure if isinstance(failure, LogFailed) else None)
        if failure is not None:
            raise failure

    async def propose(self, entry: bytes) -> bool:
        """See `Log.propose`."""
        if not entry:
            raise ValueError("an entry is not empty")
        if len(entry) > LARGEST_ENTRY_BYTES:
            raise ValueError(f"an entry of {len(entry)} bytes; at most {LARGEST_ENTRY_BYTES} fit")
        self._check_running()
        return await self._driver.propose(entry)

    async def barrier(self) -> None:
        """See `Log.barrier`."""
        self._check_running()
        await self._driver.read()

    @property
    def leadership(self) -> Leadership:
        return self._driver.leadership

    async def leadership_change(self, seen: Leadership) -> Leadership:
        """See `Log.leadership_change`."""
        return await self._driver.change(seen)

    @property
    def age(self) -> float:
        """See `Log.age`."""
        return self._engine.age

    @property
    def stalled(self) -> float:
        """See `Log.stalled`."""
        return self._driver.stalled

    async def transfer(self, to: str | None = None) -> bool:
        """Hand leadership to this voter, or the follower that is furthest, while `run` runs.

        To be called before an orderly stop: it spares the others the wait for an election. False
        if nobody took over in time; this master then goes on as before. Proposals that come
        meanwhile hear NotLeader.
        """
        if not self._is_running:
            return True
        return await self._driver.transfer(TRANSFER_SECONDS, to)

    # Members. Each change returns when it is committed and raises, besides what `propose` raises,
    # Conflict where it cannot be done as things are.

    @property
    def members(self) -> tuple[Member, ...]:
        """Those in force here: on a master that lags or was cut off, not the latest."""
        return self._engine.configuration.members

    @property
    def is_changing(self) -> bool:
        """Whether a change of the members is under way, as far as this master knows."""
        return self._engine.is_changing

    async def add_learner(self, node: str, address: str) -> None:
        """Give the log to one more master ("host:port"), which then may be promoted."""
        await self._change(lambda now: with_learner(now, node, address))

    async def promote(self, node: str) -> None:
        """Let a learner vote. Conflict also if it is not connected or lags too much."""

        def edit(now: Configuration) -> Configuration:
            after = with_voter(now, node)
            if not self._engine.followers.is_close(node, within=CAUGHT_UP_ENTRIES):
                raise Conflict(
                    f"{node} has not caught up yet, or is not connected: ask again when it has"
                )
            if not self._engine.followers.is_majority_close(after, within=CAUGHT_UP_ENTRIES):
                raise Conflict(
                    f"with {node} the voters that answer would be no majority any more: bring the"
                    " others back, or remove those that are gone first"
                )
            return after

        await self._change(edit)

    async def remove(self, node: str) -> None:
        """Remove a member, for good. A leader that removes itself hands over when it is committed.

        Conflict also if those that are left could not commit anything, this change included.
        """

        def edit(now: Configuration) -> Configuration:
            after = without(now, node, by=self._node)
            if not self._engine.followers.is_majority_close(after, within=CAUGHT_UP_ENTRIES):
                raise Conflict(
                    f"without {node} there would be no majority of voters that answers: bring the"
                    " others back, or remove those that are gone first"
                )
            return after

        await self._change(edit)

    async def change_address(self, node: str, address: str) -> None:
        await self._change(lambda now: with_address(now, node, address))

    async def _change(self, edit: Edit) -> None:
        self._check_running()
        await self._driver.change_members(edit)

    def progress(self) -> Standing:
        return self._engine.standing()

    async def close(self) -> None:
        """Hand leadership over if `run` still runs, then let go of the folder and the sockets."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._is_running:
            await self.transfer()
        self._stop(None)
        await self._network.close()
        self._held.close()

    # Starting.

    def _open(self, machine: Machine) -> None:
        disk = self._env.disk
        self._journal = Journal(self._env, self._folder, segment_bytes=self._segment_bytes)
        self._held.callback(self._journal.close)
        self._snapshots = Snapshots(self._env, self._folder)
        applied_index = 0
        if folders.is_identified(disk, self._folder):
            folders.check_identity(disk, self._folder, self._identity)
            self._snapshots.remove_temporary()
            applied_index = self._recover(machine)
        else:
            self._create()
        self._keeper = Keeper(
            self._env,
            self._snapshots,
            self._journal,
            machine,
            every_entries=self._snapshot_every_entries,
            every_bytes=self._snapshot_bytes,
            kept_entries=self._kept_entries,
            kept_bytes=self._kept_bytes,
            meters=self.meters,
        )
        self._held.callback(self._keeper.close)
        self._driver = Driver(
            self._env,
            self._node,
            self._journal,
            self._network,
            machine,
            self._keeper,
            self.meters,
        )
        self._engine = Engine(
            self._env,
            self._node,
            self._journal,
            self._driver,
            applied_index=applied_index,
            timing=self._timing,
            max_append_bytes=self._max_append_bytes,
            meters=self.meters,
        )
        known = self._engine.configuration.addresses_beside(self._node)
        self._network.set_peers(known or self._first_peers)

    def _create(self) -> None:
        if self._snapshots.exist or self._journal.holds_records:
            raise DamagedLog(
                f"{self._folder} holds a log, but its identity file is gone. {WHAT_TO_DO}"
            )
        self._journal.create()
        folders.write_identity(self._env, self._folder, self._identity)

    def _recover(self, machine: Machine) -> int:
        """Returns the index of the last entry that the machine's state holds."""
        self._journal.replay()
        snapshot, damages = self._snapshots.newest_whole()
        index, term = (snapshot.index, snapshot.term) if snapshot is not None else (0, 0)
        if damages and not (snapshot is not None and self._journal.covers(index, term)):
            raise DamagedLog(
                f"{damages[0]} No older snapshot is whole and followed by all entries. {WHAT_TO_DO}"
            )
        for damage in damages:
            log.warning("a snapshot is damaged; an older state and the log replace it: %s", damage)
        configuration = NOBODY
        if snapshot is not None:
            try:
                configuration = restored(snapshot, machine)
            except ValueError as error:
                raise DamagedLog(
                    f"snapshot {index} in {self._folder} is as it was written, but cannot be"
                    f" restored: {error}. Was it written by a newer version?"
                ) from error
        self._journal.begin_after(index, term, configuration, keep=self._kept_entries)
        if damages:
            self._snapshots.set_aside(newer_than=index)
        return index

    # Ending.

    def _check_running(self) -> None:
        if self._failure is not None:
            raise LogFailed(str(self._failure))
        if not self._is_running:
            raise NotLeader("this master is not running; nothing was changed")

    def _stop(self, failure: LogFailed | None) -> None:
        self._failure = self._failure or failure
        self._is_running = False
        if hasattr(self, "_driver"):  # else `start` has failed
            self._driver.stop(failure)
