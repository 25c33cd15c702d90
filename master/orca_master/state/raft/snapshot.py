"""Snapshots of the Raft log: taken, made durable, given to followers that lag, taken from a leader.

All file work is off the tick and in slices, one thing at a time. What touches the journal or the
machine is run by the driver between two ticks (`in_turn`), and has become durable when that returns.
A snapshot is announced in the journal, then published, then the log begins behind it: a crash at any
point leaves the old state or the new one. Its first part are the members as of its entry, the others
are the machine's; none of the machine's means a machine that never was given an entry.

One that arrives goes to the disk as it comes: a piece is answered when it is written, so what waits
here is one window of pieces and one part. The new state is made part by part, beside the old one,
while heartbeats are answered; then it takes the old one's place at once.
"""

import asyncio
from collections.abc import Callable
from itertools import chain
from threading import Lock
from typing import Protocol, TypeVar

from orca_common.env import Env
from orca_common.logs import get_logger
from orca_master.state.log import DamagedLog, LogFailed, Machine, Restoring, restore
from orca_master.state.raft.codec import Piece
from orca_master.state.raft.journal import Journal
from orca_master.state.raft.members import (
    NOBODY,
    Configuration,
    decode_configuration,
    encode_configuration,
)
from orca_master.state.raft.meters import Meters
from orca_master.state.solo.records import MAX_PAYLOAD_BYTES
from orca_master.state.solo.snapshots import Receiving, Snapshot, Snapshots
from orca_master.state.space import is_full

T = TypeVar("T")

MAX_SNAPSHOT_BYTES = 8 << 30
RETRY_SECONDS = 30.0
SOON_SECONDS = 1.0

log = get_logger("state.raft")


class Arrival:
    """The pieces of a snapshot as they come, in order; it moves nothing, and writes nothing."""

    def __init__(self, *, largest_part_bytes: int = MAX_PAYLOAD_BYTES) -> None:
        self._largest_part_bytes = largest_part_bytes
        self.clear()

    def clear(self) -> None:
        self._source: tuple[str, int, int, int] | None = None
        self._expected = 0
        self._size = self._part_size = 0
        self._is_whole = False
        self.sender = ""
        self.index = 0
        self._pieces: list[Piece] = []

    @property
    def has_pieces(self) -> bool:
        return bool(self._pieces)

    def take_pieces(self) -> list[Piece]:
        """Those that came since the last call, all of one snapshot; the first may begin another."""
        pieces, self._pieces = self._pieces, []
        return pieces

    def put(self, peer: str, piece: Piece) -> bool:
        """Whether the piece was the one that comes next. When the last has come, none is until `clear`."""
        if self._is_whole:
            return False
        source = (peer, piece.term, piece.index, piece.index_term)
        if piece.number == 0:
            self.clear()
            self._source, self.sender, self.index = source, peer, piece.index
        if source != self._source or piece.number != self._expected:
            return False
        self._size += len(piece.data)
        self._part_size += len(piece.data)
        if self._size > MAX_SNAPSHOT_BYTES or self._part_size > self._largest_part_bytes:
            raise ValueError("a snapshot, or a part of one, that is larger than any")
        if piece.ends_part:
            self._part_size = 0
        self._expected += 1
        self._is_whole = piece.is_last
        self._pieces.append(piece)
        return True


def restored(snapshot: Snapshot, machine: Machine) -> Configuration:
    """The members in it, and the machine holds its state. Raises ValueError, DamagedLog, OSError."""
    parts = iter(snapshot.parts)
    configuration = _members_in(next(parts, None))
    first = next(parts, None)
    if first is not None:
        restore(machine, chain((first,), parts))
    return configuration


def _members_in(first: bytes | None) -> Configuration:
    if first is None:
        raise ValueError("it holds nothing, not even the members")
    return decode_configuration(first)


class Participant(Protocol):
    """What the keeper needs of the engine."""

    arrival: Arrival

    @property
    def applied_index(self) -> int: ...
    def lagging(self) -> list[str]: ...
    def are_streamed_to(self) -> bool: ...
    def offer(self, peer: str, snapshot: Snapshot) -> None: ...
    def installed(self, index: int, term: int, configuration: Configuration) -> None: ...
    def answer_written(self, peer: str, snapshot_index: int, wanted: int) -> None: ...
    def answer_refused(self, peer: str, snapshot_index: int) -> None: ...
    def answer_installed(self, peer: str, snapshot_index: int) -> None: ...


class InTurn(Protocol):
    """Runs something between two ticks; returns once the journal is durable after it."""

    async def __call__(self, errand: Callable[[], T]) -> T: ...


class Keeper:
    """Keeps snapshots; `look` says that something may be due, `run` does it."""

    def __init__(
        self,
        env: Env,
        snapshots: Snapshots,
        journal: Journal,
        machine: Machine,
        *,
        every_entries: int,
        every_bytes: int,
        kept_entries: int,
        kept_bytes: int,
        meters: Meters,
    ) -> None:
        self._env = env
        self._snapshots = snapshots
        self._journal = journal
        self._machine = machine
        self._every_entries = every_entries
        self._every_bytes = every_bytes
        self._kept_entries = kept_entries
        self._kept_bytes = kept_bytes
        self._meters = meters
        self._entries = 0
        self._bytes = 0
        self._is_wanted = False
        self._retry_at = float("-inf")
        self._shared: Snapshot | None = None
        self._receiving: Receiving | None = None
        self._wake = asyncio.Event()
        # A compaction goes on in its thread when `run` is cancelled; the folder is held until then.
        self._compacting = Lock()
        self._is_closed = False

    def count(self, command: bytes) -> None:
        """An entry was applied."""
        self._entries += 1
        self._bytes += len(command)

    def look(self, engine: Participant) -> None:
        if (
            self._is_due
            or engine.arrival.has_pieces
            or engine.lagging()
            or (self._shared is not None and not engine.are_streamed_to())
        ):
            self._wake.set()

    @property
    def _is_due(self) -> bool:
        return (
            self._is_wanted
            or self._entries >= self._every_entries
            or self._bytes >= self._every_bytes
        ) and self._env.monotonic() >= self._retry_at

    async def run(self, engine: Participant, in_turn: InTurn) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                while engine.arrival.has_pieces:
                    await self._receive(engine, in_turn)
                if self._is_due:
                    await self._take(engine, in_turn)
                if engine.lagging():
                    await self._offer(engine, in_turn)
            except OSError as error:
                if not is_full(error):
                    raise LogFailed(f"a snapshot cannot be written: {error}") from error
                if self._receiving is not None or engine.arrival.has_pieces:
                    self._forget_receiving()
                    engine.answer_refused(engine.arrival.sender, engine.arrival.index)
                    engine.arrival.clear()
                pause = self._env.random.uniform(0.5, 1.0) * RETRY_SECONDS
                self._retry_at = self._env.monotonic() + pause
                log.warning(
                    "no space for a snapshot; the log keeps growing",
                    reason=str(error),
                    next_try_seconds=round(pause),
                )
            if not engine.are_streamed_to():
                self._shared = None

    async def _take(self, engine: Participant, in_turn: InTurn) -> None:
        entries, size = self._entries, self._bytes
        # Captured in a turn: what is applied by then is durable here before the snapshot is.
        index, term, configuration, parts = await in_turn(
            lambda: (
                engine.applied_index,
                self._journal.term_at(engine.applied_index) or 0,
                self._journal.members.at(engine.applied_index),
                self._machine.capture(),
            )
        )
        if index <= 1:  # nothing was ever applied
            self._is_wanted = False
            self._retry_at = self._env.monotonic() + SOON_SECONDS
            return
        header = encode_configuration(configuration)
        await self._snapshots.write(index=index, term=term, parts=chain((header,), parts))
        self._meters.snapshots_taken += 1
        self._entries -= entries
        self._bytes -= size
        self._is_wanted = False
        await in_turn(
            lambda: self._journal.trim_behind(
                index, entries=self._kept_entries, size=self._kept_bytes
            )
        )
        await self._env.threads.run(self._compact)
        log.info("snapshot was written", index=index, entries=entries)

    def close(self) -> None:
        """Nothing in the folder is touched after this."""
        with self._compacting:
            self._is_closed = True
        if self._receiving is not None:
            self._receiving.close()

    def _compact(self) -> None:
        with self._compacting:
            if not self._is_closed:
                self._journal.drop_files(self._snapshots.needed_after())
                self._snapshots.drop_old()

    async def _receive(self, engine: Participant, in_turn: InTurn) -> None:
        sender, pieces = engine.arrival.sender, engine.arrival.take_pieces()
        first, last = pieces[0], pieces[-1]
        if first.number == 0:
            self._forget_receiving()
            self._receiving = self._snapshots.receive(index=first.index, term=first.index_term)
        receiving = self._receiving
        assert receiving is not None, "pieces are put only behind a first one"

        def write() -> None:
            for piece in pieces:
                receiving.take(piece.data, ends_part=piece.ends_part)

        await self._env.threads.run(write)
        if last.is_last:
            await self._install(engine, receiving, sender, in_turn)
        else:
            await in_turn(lambda: engine.answer_written(sender, last.index, last.number + 1))

    def _forget_receiving(self) -> None:
        if self._receiving is not None:
            self._receiving.discard()
        self._receiving = None

    async def _install(
        self, engine: Participant, receiving: Receiving, sender: str, in_turn: InTurn
    ) -> None:
        index, term = receiving.index, receiving.term
        await in_turn(lambda: self._journal.announce(index, term))
        configuration, restoring = NOBODY, None
        if index > engine.applied_index:
            snapshot = await self._snapshots.accept(receiving)
            try:
                configuration, restoring = await self._restoring(snapshot)
            except (ValueError, DamagedLog) as error:
                raise _cannot_be_restored(index, error) from error
        self._forget_receiving()

        def stand_behind() -> None:
            if index > engine.applied_index:
                if restoring is not None:
                    try:
                        restoring.replace()
                    except ValueError as error:
                        raise _cannot_be_restored(index, error) from error
                engine.installed(index, term, configuration)
                self._meters.snapshots_received += 1
                self._entries = self._bytes = 0
            engine.arrival.clear()
            engine.answer_installed(sender, index)

        await in_turn(stand_behind)
        await self._env.threads.run(self._compact)
        log.info("snapshot was installed", index=index, sender=sender)

    async def _restoring(self, snapshot: Snapshot) -> tuple[Configuration, Restoring | None]:
        """The members and, unless it never was given an entry, the machine's state: part by part."""
        parts = iter(snapshot.parts)

        async def next_part() -> bytes | None:
            await asyncio.sleep(0)  # threads may run inline: others get their turn all the same
            return await self._env.threads.run(lambda: next(parts, None))

        configuration, restoring = _members_in(await next_part()), None
        while (part := await next_part()) is not None:
            restoring = restoring or self._machine.restoring()
            restoring.take(part)
        return configuration, restoring

    async def _offer(self, engine: Participant, in_turn: InTurn) -> None:
        if self._shared is None or self._shared.index < self._journal.first_index:
            snapshot, damages = await self._env.threads.run(self._snapshots.newest_whole)
            for damage in damages:
                log.error("a snapshot is damaged and given to nobody", reason=str(damage))
            if snapshot is None or snapshot.index < self._journal.first_index:
                self._is_wanted = True
                return
            held = await self._env.threads.run(lambda: list(snapshot.parts))
            self._shared = Snapshot(snapshot.index, snapshot.term, held)
        shared = self._shared

        def offer() -> None:
            for peer in engine.lagging():
                engine.offer(peer, shared)
                self._meters.snapshots_sent += 1

        await in_turn(offer)


def _cannot_be_restored(index: int, error: Exception) -> LogFailed:
    return LogFailed(
        f"the snapshot of entry {index} cannot be restored: {error}."
        " Was it written by a newer version?"
    )
