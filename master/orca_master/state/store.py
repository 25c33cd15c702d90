"""The store: one writer, group commit, readers that never wait.

`update(fn)` runs `fn(transaction)` on the latest state, together with everybody else's who waits,
and appends one entry for all of them to the log. There are no locks and there is no write skew,
because the functions run one after another on one task. Readers use `state`, the last committed
version, which never shows a draft.
"""

import asyncio
import gc
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from orca_common.env import Env
from orca_common.logs import get_logger
from orca_master.errors import NotLeader, OrcaError, OutcomeUnknown, StorageFull, TooLarge
from orca_master.state import entry as codec
from orca_master.state.follow import Commit, Feed, Follower
from orca_master.state.history.event import Event, Record, head_after, placed
from orca_master.state.history.keeper import History
from orca_master.state.log import Leadership, Log
from orca_master.state.marks import Marks, mark
from orca_master.state.rows import State
from orca_master.state.table import Schema, Table
from orca_master.state.transaction import MAX_BYTES, Changes, Transaction

T = TypeVar("T")

TRANSACTION_SECONDS = 0.020
"""Of the processor: what one function may use while everybody else waits for it."""
RUN_AGAIN_WITHIN = 10
"""Times the budget: one that used more than this is not given another run."""
MOST_RUNS = 3
MAX_FUNCTIONS_PER_ENTRY = 512

log = get_logger("state")


@dataclass(slots=True)
class _Waiting:
    run: Callable[[Transaction], Any]
    budget_seconds: float
    wants_proof: bool
    answer: "asyncio.Future[Any]"
    result: Any = None
    refusal: Exception | None = None


@dataclass(frozen=True, slots=True)
class _Proposal:
    """The entry under way, with what came of it here: it need not be read and applied again."""

    raw: bytes
    entry: codec.Entry
    after: State
    events: list[Event]


class _Group:
    """Whoever is written together: what they wrote so far, and the draft the next one reads."""

    def __init__(self, base: State) -> None:
        self.ran: list[_Waiting] = []
        self.draft = base
        self.changes: Changes = {}
        self.records: list[Record] = []
        self.size = 0

    def take(self, transaction: Transaction) -> None:
        self.draft = transaction.state
        self.changes.update(transaction.changes)
        self.records += transaction.records
        self.size += transaction.size

    @property
    def wrote(self) -> bool:
        return bool(self.changes or self.records)


class Restoring:
    """See `log.Restoring`."""

    def __init__(self, present: State, replace: Callable[[State], None]) -> None:
        self._restoration = codec.Restoration(present)
        self._replace = replace

    def take(self, part: bytes) -> None:
        self._restoration.take(part)
        # Its rows stay: a garbage collector that goes through all of them stops everything else for
        # half a second at 100,000 rows, again and again while they grow.
        gc.freeze()

    def replace(self) -> None:
        self._replace(self._restoration.state())


class Store:
    """Start it (`start`), keep `run` running, then `update` and read. One instance per master."""

    def __init__(
        self, env: Env, backing: Log, schema: Schema, history: History | None = None
    ) -> None:
        self._env = env
        self._history = history
        self._log = backing
        self._schema = schema
        self._state = State(schema)
        self._waiting: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        # In order of arrival: a simulation must wake them in the same order every time.
        self._followers: dict[Follower, None] = {}
        self._feeds: dict[Feed, None] = {}
        self._marks: Marks = {}
        self._own: _Proposal | None = None

    @property
    def state(self) -> State:
        """The last committed state."""
        return self._state

    @property
    def marks(self) -> Marks:
        """Digests of the state at the last round versions, since the start or the last snapshot that
        replaced it: to be compared with those of other masters (`odd_one_out`)."""
        return dict(self._marks)

    @property
    def leadership(self) -> Leadership:
        return self._log.leadership

    async def leadership_change(self, seen: Leadership) -> Leadership:
        return await self._log.leadership_change(seen)

    async def start(self) -> None:
        """Recover from the log. Raises DamagedLog, FolderInUse, DamagedHistory."""
        await self._log.start(self)
        if self._history is not None:
            await self._history.start()

    async def run(self) -> None:
        """The writer and the log's own work, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._log.run(), name="log")
            group.create_task(self._write(), name="writer")
            if self._history is not None:
                group.create_task(self._history.run(), name="history")

    async def close(self) -> None:
        for waiting in self._waiting:
            if not waiting.answer.done():
                waiting.answer.set_exception(NotLeader("this master is stopping"))
        self._waiting.clear()
        await self._log.close()
        if self._history is not None:
            await self._history.close()

    async def update(
        self,
        fn: Callable[[Transaction], T],
        *,
        budget_seconds: float = TRANSACTION_SECONDS,
    ) -> T:
        """Run `fn` in a transaction and return its result once that is durable.

        Raises what `fn` raised (then nothing of it was written), or what `Log.propose` raises, or
        TooLarge if `fn` used more of the processor than its budget. It may run three times:
        what a cold cache or a starved machine took is not held against it, so the best is judged.
        A result without a write, and a refusal, is given only when the log has confirmed the state
        that it was made from: a master that was cut off, or a failed commit, misleads nobody.
        """
        result: T = await self._enqueue(fn, budget_seconds, wants_proof=True)
        return result

    async def tend(self, fn: Callable[[Transaction], object]) -> None:
        """As `update`, for a loop that looks again when something changes.

        That there was nothing to write needs no proof, so it takes no round to the other masters,
        which everybody else would have to wait for.
        """
        await self._enqueue(fn, TRANSACTION_SECONDS, wants_proof=False)

    def _enqueue(
        self, fn: Callable[[Transaction], Any], budget_seconds: float, *, wants_proof: bool
    ) -> "asyncio.Future[Any]":
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(fn, budget_seconds, wants_proof, answer))
        self._wake.set()
        return answer

    async def fresh(self) -> State:
        """The state with everything that was committed anywhere before the call (linearizable)."""
        await self._log.barrier()
        return self._state

    async def read(self, *, stale: bool) -> State:
        """`fresh`, or this master's own state, which may be older (`age`)."""
        return self._state if stale else await self.fresh()

    @property
    def age(self) -> float:
        """Seconds since `state` was certainly the latest; infinite before it ever was."""
        return self._log.age

    def follow(self, *tables: Table[Any]) -> Follower:
        return Follower(self._followers, frozenset(table.name for table in tables))

    def feed(self, *, limit: int = 1000) -> Feed:
        """Every commit from now on; a subscriber more than `limit` commits behind is cut off."""
        return Feed(self._feeds, limit)

    # The machine's side: called by the log.

    def apply(self, entry: bytes) -> bool:
        before = self._state
        # By value: a replicated entry comes back as other bytes.
        own = self._own if self._own is not None and self._own.raw == entry else None
        decoded = own.entry if own else codec.decode_entry(entry)
        if decoded.base != before.version:
            return False
        after = (own.after, own.events) if own else codec.apply_entry(before, decoded)
        self._state, events = after
        if events and self._history is not None:
            self._history.push(before.history, events)
        mark(self._marks, self._state)
        self._announce(Commit(before, self._state, decoded.changes, events))
        return True

    def capture(self) -> Iterator[bytes]:
        parts = codec.capture(self._state)
        return parts if self._history is None else self._history.synced(parts)

    def restoring(self) -> "Restoring":
        return Restoring(self._state, self._replace)

    def _replace(self, state: State) -> None:
        self._state = state
        self._marks.clear()
        if self._history is not None:
            self._history.jump(state.history)
        for follower in self._followers:
            follower.notify_everything()
        for feed in self._feeds:
            feed.cut()

    def _announce(self, commit: Commit) -> None:
        for follower in self._followers:
            follower.notify(commit.changes)
        for feed in self._feeds:
            feed.push(commit)

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                await self._write_group()

    async def _write_group(self) -> None:
        base = self._state
        group = self._run_waiting(base)
        if not group.ran:
            return
        try:
            if group.wrote:
                error = await self._commit(base, group)
            elif any(waiting.wants_proof for waiting in group.ran):
                error = await self._confirm()
            else:
                error = None
        except BaseException:
            _answer(
                group.ran,
                OutcomeUnknown("this master stopped while it was writing; look, then ask again"),
            )
            raise
        _answer(group.ran, error)

    def _run_waiting(self, base: State) -> _Group:
        # A collection of the whole process's garbage is no part of what a function uses.
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            return self._run_each(_Group(base))
        finally:
            if was_enabled:
                gc.enable()

    def _run_each(self, group: _Group) -> _Group:
        thread_time = self._env.clock.thread_time
        started = thread_time()
        while self._waiting and len(group.ran) < MAX_FUNCTIONS_PER_ENTRY and group.size < MAX_BYTES:
            waiting = self._waiting.popleft()
            if waiting.answer.done():  # its caller has gone away
                continue
            group.ran.append(waiting)
            try:
                transaction, started = self._run(waiting, group.draft, started)
                group.take(transaction)
            except Exception as error:  # the caller gets it; the writer goes on with the others
                waiting.refusal = error
                started = thread_time()
        return group

    def _run(self, waiting: _Waiting, draft: State, started: float) -> tuple[Transaction, float]:
        """What came of it, and when it ended: the next one starts there. (Reading this clock is a
        system call.) Raises what the function raises, and TooLarge."""
        budget, thread_time = waiting.budget_seconds, self._env.clock.thread_time
        for _ in range(MOST_RUNS):
            transaction = Transaction(draft)
            waiting.result = waiting.run(transaction)
            ended = thread_time()
            took, started = ended - started, ended
            if not budget < took <= budget * RUN_AGAIN_WITHIN:
                break
        if took > budget:
            log.warning("transaction was refused", seconds=round(took, 3), run=str(waiting.run))
            raise TooLarge(
                f"the change took {took * 1000:.0f} ms of at most {budget * 1000:.0f} ms, and"
                " nothing of it was done: split it into smaller batches"
            )
        if transaction.records:
            self._check_recordable()
        return transaction, ended

    def _check_recordable(self) -> None:
        if self._history is None:
            raise RuntimeError("this store was made without a history")
        if self._history.is_behind:
            raise StorageFull("the history cannot be written: make space on the master's disk")

    async def _commit(self, base: State, group: _Group) -> OrcaError | None:
        version = base.version + 1
        entry = codec.Entry(base.version, group.changes, group.records)
        raw = codec.encode_entry(entry)
        events = placed(base.history, version, group.records)
        after = group.draft.at(version, head_after(base.history, events))
        self._own = _Proposal(raw, entry, after, events)
        try:
            if not await self._log.propose(raw):
                return NotLeader(
                    "another master changed the state first; nothing was done, ask again"
                )
        except OrcaError as error:
            return error
        finally:
            self._own = None
        return None

    async def _confirm(self) -> OrcaError | None:
        try:
            await self._log.barrier()
        except OrcaError as error:
            return error
        return None


def _answer(ran: list[_Waiting], error: OrcaError | None) -> None:
    for waiting in ran:
        if waiting.answer.done():
            continue
        failure = error or waiting.refusal
        if failure is None:
            waiting.answer.set_result(waiting.result)
        else:
            waiting.answer.set_exception(failure)
