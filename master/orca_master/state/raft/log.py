"""`RaftLog`: the log of several masters. An entry is committed when a majority has it on disk.

The members are those that the constructor names; the log never forwards. It is put together here:
the folder, the journal, the snapshots, the engine, its driver and the network. What is safe about
it is said in `protocol` and `driver`.
"""

import asyncio
from collections.abc import Iterable
from contextlib import ExitStack

from orca_common.env import Env
from orca_common.logs import get_logger
from orca_master.errors import NotLeader, StorageFull
from orca_master.state.log import DamagedLog, Leadership, LogFailed, Machine
from orca_master.state.raft.codec import MAX_ENTRY_BYTES
from orca_master.state.raft.driver import Driver
from orca_master.state.raft.elections import Timing
from orca_master.state.raft.journal import Journal
from orca_master.state.raft.port import Network
from orca_master.state.raft.protocol import Engine
from orca_master.state.raft.snapshot import Keeper
from orca_master.state.solo import folder as folders
from orca_master.state.solo.segments import WHAT_TO_DO, NoSpace, is_full
from orca_master.state.solo.snapshots import Snapshots

LARGEST_ENTRY_BYTES = MAX_ENTRY_BYTES - 64
TRANSFER_SECONDS = 0.3

log = get_logger("state.raft")


class RaftLog:
    """`Log` on this master's disk and its peers'. The folder is this log's alone.

    `peers` are the ids of all other masters, at least one; `network` reaches exactly those. A
    snapshot is taken after so many entries or bytes of them; as much stays in memory for followers
    that lag a little, others are sent the snapshot.
    """

    def __init__(
        self,
        env: Env,
        folder: str,
        *,
        cluster_id: str,
        node: str,
        peers: Iterable[str],
        network: Network,
        timing: Timing | None = None,
        segment_bytes: int = 64 << 20,
        snapshot_every_entries: int = 50_000,
        snapshot_bytes: int = 64 << 20,
        kept_entries: int = 10_000,
        kept_bytes: int = 32 << 20,
        max_append_bytes: int = 1 << 20,
    ) -> None:
        self._peers = sorted(peers)
        if not self._peers or node in self._peers or len(set(self._peers)) < len(self._peers):
            raise ValueError("peers are the ids of the other masters, each once, at least one")
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
        """See `Log.run`."""
        failure: LogFailed | None = None
        self._is_running = True
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._network.run(), name="raft network")
                group.create_task(self._driver.drive(self._engine), name="raft driver")
                group.create_task(
                    self._driver.show_life(self._engine, every_seconds=self._timing.heartbeat / 2),
                    name="raft heartbeats",
                )
                group.create_task(
                    self._keeper.run(self._engine, self._driver.in_turn), name="raft snapshots"
                )
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

    async def transfer(self) -> bool:
        """Hand leadership to the follower that has the whole log, while `run` runs.

        To be called before an orderly stop: it spares the others the wait for an election. False
        if nobody took over in time; this master then goes on as before. Proposals that come
        meanwhile hear NotLeader.
        """
        if not self._is_running:
            return True
        return await self._driver.transfer(TRANSFER_SECONDS)

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
        )
        self._held.callback(self._keeper.close)
        self._driver = Driver(
            self._env, self._node, self._journal, self._network, machine, self._keeper
        )
        self._engine = Engine(
            self._env,
            self._node,
            self._peers,
            self._journal,
            self._driver,
            applied_index=applied_index,
            timing=self._timing,
            max_append_bytes=self._max_append_bytes,
        )

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
        self._journal.begin_after(index, term, keep=self._kept_entries)
        if snapshot is not None:
            try:
                machine.restore(snapshot.parts)
            except ValueError as error:
                raise DamagedLog(
                    f"snapshot {index} in {self._folder} is as it was written, but cannot be"
                    f" restored: {error}. Was it written by a newer version?"
                ) from error
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
