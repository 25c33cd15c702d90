"""Snapshots of the Raft log: taken, made durable, given to followers that lag, taken from a leader.

All file work is off the tick and in slices, one thing at a time. What touches the journal or the
machine is run by the driver between two ticks (`in_turn`), and has become durable when that returns.
A snapshot is announced in the journal, then published, then the log begins behind it: a crash at any
point leaves the old state or the new one. Its first part are the members as of its entry, the others
are the machine's; none of the machine's means a machine that never was given an entry.
"""

import asyncio
from collections.abc import Callable
from itertools import chain
from threading import Lock
from typing import Protocol, TypeVar

from orca_common.env import Env
from orca_common.logs import get_logger
from orca_master.state.log import LogFailed, Machine
from orca_master.state.raft.codec import Piece
from orca_master.state.raft.journal import Journal
from orca_master.state.raft.members import (
    Configuration,
    decode_configuration,
    encode_configuration,
)
from orca_master.state.raft.meters import Meters
from orca_master.state.solo.snapshots import Snapshot, Snapshots
from orca_master.state.space import is_full

T = TypeVar("T")

MAX_SNAPSHOT_BYTES = 8 << 30
RETRY_SECONDS = 30.0
SOON_SECONDS = 1.0

log = get_logger("state.raft")


class Arrival:
    """A snapshot that comes in pieces. It moves nothing until it is whole."""

    def __init__(self) -> None:
        self.whole: Snapshot | None = None
        self.sender = ""
        self.clear()

    def clear(self) -> None:
        self.whole = None
        self._source: tuple[str, int, int, int] | None = None
        self._expected = 0
        self._parts: list[bytes] = []
        self._part: list[bytes] = []
        self._size = 0

    def take(self, peer: str, piece: Piece) -> bool:
        """Whether the piece was the one that comes next."""
        if self.whole is not None:
            return False
        source = (peer, piece.term, piece.index, piece.index_term)
        if piece.number == 0:
            self.clear()
            self._source = source
        if source != self._source or piece.number != self._expected:
            return False
        self._size += len(piece.data)
        if self._size > MAX_SNAPSHOT_BYTES:
            raise ValueError(f"a snapshot of more than {MAX_SNAPSHOT_BYTES} bytes")
        self._expected += 1
        self._part.append(piece.data)
        if piece.ends_part:
            self._parts.append(b"".join(self._part))
            self._part = []
        if piece.is_last:
            self.whole = Snapshot(piece.index, piece.index_term, self._parts)
            self.sender = peer
        return True


def restored(snapshot: Snapshot, machine: Machine) -> Configuration:
    """The members in it, and the machine holds its state. Raises ValueError."""
    if not snapshot.parts:
        raise ValueError("it holds nothing, not even the members")
    configuration = decode_configuration(snapshot.parts[0])
    if len(snapshot.parts) > 1:
        machine.restore(snapshot.parts[1:])
    return configuration


class Participant(Protocol):
    """What the keeper needs of the engine."""

    arrival: Arrival

    @property
    def applied_index(self) -> int: ...
    def lagging(self) -> list[str]: ...
    def are_streamed_to(self) -> bool: ...
    def offer(self, peer: str, snapshot: Snapshot) -> None: ...
    def installed(self, snapshot: Snapshot, configuration: Configuration) -> None: ...
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
            or engine.arrival.whole is not None
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
                if engine.arrival.whole is not None:
                    await self._install(engine, engine.arrival.whole, in_turn)
                if self._is_due:
                    await self._take(engine, in_turn)
                if engine.lagging():
                    await self._offer(engine, in_turn)
            except OSError as error:
                if not is_full(error):
                    raise LogFailed(f"a snapshot cannot be written: {error}") from error
                if engine.arrival.whole is not None:
                    engine.answer_refused(engine.arrival.sender, engine.arrival.whole.index)
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

    def _compact(self) -> None:
        with self._compacting:
            if not self._is_closed:
                self._journal.drop_files(self._snapshots.needed_after())
                self._snapshots.drop_old()

    async def _install(self, engine: Participant, snapshot: Snapshot, in_turn: InTurn) -> None:
        await in_turn(lambda: self._journal.announce(snapshot.index, snapshot.term))
        if snapshot.index > engine.applied_index:
            await self._snapshots.write(
                index=snapshot.index, term=snapshot.term, parts=iter(snapshot.parts)
            )
        sender = engine.arrival.sender
        await in_turn(lambda: self._stand_behind(engine, snapshot, sender))
        await self._env.threads.run(self._compact)
        log.info("snapshot was installed", index=snapshot.index, sender=sender)

    def _stand_behind(self, engine: Participant, snapshot: Snapshot, sender: str) -> None:
        if snapshot.index > engine.applied_index:
            try:
                configuration = restored(snapshot, self._machine)
            except ValueError as error:
                raise LogFailed(
                    f"the snapshot of entry {snapshot.index} cannot be restored: {error}."
                    " Was it written by a newer version?"
                ) from error
            engine.installed(snapshot, configuration)
            self._meters.snapshots_received += 1
            self._entries = self._bytes = 0
        engine.arrival.clear()
        engine.answer_installed(sender, snapshot.index)

    async def _offer(self, engine: Participant, in_turn: InTurn) -> None:
        if self._shared is None or self._shared.index < self._journal.first_index:
            snapshot, damages = await self._env.threads.run(self._snapshots.newest_whole)
            for damage in damages:
                log.error("a snapshot is damaged and given to nobody", reason=str(damage))
            if snapshot is None or snapshot.index < self._journal.first_index:
                self._is_wanted = True
                return
            self._shared = snapshot
        shared = self._shared

        def offer() -> None:
            for peer in engine.lagging():
                engine.offer(peer, shared)
                self._meters.snapshots_sent += 1

        await in_turn(offer)
