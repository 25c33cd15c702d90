"""The turns of a master: what is read, decided, written, made durable and sent, in which order.

    1  what has come is given to the engine            4  the leader's entries leave
    2  errands, then a tick: elect, commit, apply,      5  the journal is made durable
       append everything that waits                     6  answers and votes leave; a follower applies
    3  the journal is handed to the system              7  callers, reads and leadership are settled

That the entries leave before our own disk has them is safe and overlaps both: the leader counts
itself only in the next tick. Everything that waited during a turn shares the next one's fdatasync.
A full disk shows in step 3, before anybody was told: then proposals are taken back. If what cannot
be written is more than that, the master falls silent until there is space.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from orca_common.env import Env
from orca_common.logs import get_logger
from orca_master.errors import Conflict, NotLeader, OutcomeUnknown, StorageFull
from orca_master.state.log import Leadership, LogFailed, Machine
from orca_master.state.raft import codec
from orca_master.state.raft.journal import Journal
from orca_master.state.raft.members import Configuration, Removed
from orca_master.state.raft.meters import Meters
from orca_master.state.raft.port import Connected, Disconnected, Network, Received
from orca_master.state.raft.protocol import Engine
from orca_master.state.raft.reads import Reads
from orca_master.state.raft.snapshot import Keeper
from orca_master.state.raft.syncs import Syncs
from orca_master.state.raft.waiting import (
    Change,
    Edit,
    Errand,
    Proposal,
    next_batch,
    refuse_unknown,
)
from orca_master.state.solo.segments import NoSpace

T = TypeVar("T")

TURN_BYTES = 4 << 20
"""How much is proposed in one turn; more waits for the next."""
LONGEST_WAIT_SECONDS = 0.05
SHORTEST_WAIT_SECONDS = 0.001
FULL_DISK_RETRY_SECONDS = 0.25
GIVE_WAY_SECONDS = 0.3
PAUSE_AFTER_GIVING_WAY_SECONDS = 10.0
"""Nobody better took over: then it is not tried again at once."""
LEAVE_SECONDS = 1.0
"""How long a leader that was removed tries to hand over before it just goes."""
NOTHING_CHANGED = "nothing was changed"

log = get_logger("state.raft")


class Driver:
    """Drives one engine, which is given to it by `drive`. Everything runs on its one task."""

    def __init__(
        self,
        env: Env,
        node: str,
        journal: Journal,
        network: Network,
        machine: Machine,
        keeper: Keeper,
        meters: Meters,
    ) -> None:
        self._env = env
        self._node = node
        self._journal = journal
        self._network = network
        self._machine = machine
        self._keeper = keeper
        self._meters = meters
        self._reads = Reads()
        self._waiting: deque[Proposal] = deque()
        self._changes: deque[Change] = deque()
        self._under_way: dict[int, list[Proposal]] = {}
        self._term_under_way = 0
        self._appended: list[int] = []
        self._errands: list[Errand] = []
        self._syncs = Syncs(env, journal, meters)
        self._wellbeing = self._syncs.wellbeing
        self._is_stalled = False
        self._turned_at = env.monotonic()
        self._wakes_at = 0.0
        self._failure: BaseException | None = None
        """Of a turn that was taken where something came; the driver's own task ends with it."""
        self._is_handing_over = False
        self._heir: str | None = None
        self._asked_to_take_over = False
        self._leaves_at: float | None = None
        self.leadership = Leadership(0, False, None)
        self._changed = asyncio.Event()
        self._engine: Engine

    # For callers.

    def propose(self, entry: bytes) -> "asyncio.Future[bool]":
        """Raises NotLeader and StorageFull at once where it is known."""
        proposal = self._new_proposal(entry)
        self._waiting.append(proposal)
        self._network.wake()
        return proposal.answer

    def change_members(self, edit: Edit) -> "asyncio.Future[bool]":
        """As `propose`, of what the edit makes of the members; ends with Conflict if it refuses."""
        proposal = self._new_proposal(b"")
        self._changes.append(Change(edit, proposal))
        self._network.wake()
        return proposal.answer

    def _new_proposal(self, entry: bytes) -> Proposal:
        if self._is_stalled:
            raise StorageFull(f"this master's disk is full; {NOTHING_CHANGED}")
        self._check_leads()
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        return Proposal(entry, answer, self._env.monotonic())

    def read(self) -> "asyncio.Future[None]":
        self._check_leads()
        self._network.wake()
        return self._reads.add()

    def _check_leads(self) -> None:
        if not self.leadership.is_leader or self._is_handing_over:
            raise NotLeader(self._who_leads())

    def _who_leads(self) -> str:
        leader = self.leadership.leader
        others = (
            f"{leader} leads" if leader not in (None, self._node) else "nobody is known to lead"
        )
        return f"this master does not lead ({others}); {NOTHING_CHANGED}"

    async def change(self, seen: Leadership) -> Leadership:
        while self.leadership == seen:
            await self._changed.wait()
        return self.leadership

    async def transfer(self, seconds: float, to: str | None = None) -> bool:
        """Give leadership to another voter; False if there is none, or none took it in time."""
        if self._engine.is_alone or not self.leadership.is_leader:
            return not self.leadership.is_leader
        self._heir, self._is_handing_over, self._asked_to_take_over = to, True, False
        self._network.wake()
        try:
            async with asyncio.timeout(seconds):
                while (now := self.leadership).is_leader:
                    await self.change(now)
        except TimeoutError:
            log.warning("nobody took leadership over", waited_seconds=seconds)
            return False
        finally:
            self._is_handing_over = False
        log.info("leadership was handed over")
        return True

    async def in_turn(self, errand: Callable[[], T]) -> T:
        """Run this between two ticks; return once what it put into the journal is durable."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._errands.append(Errand(errand, done))
        self._network.wake()
        return await done

    # The turns.

    async def drive(self, engine: Engine) -> None:
        self._engine = engine
        self._network.on_arrival(self._turn_at_once)
        while True:
            self._turned_at = self._env.monotonic()
            seconds = self._seconds_to_wait()
            self._wakes_at = self._turned_at + seconds
            await self._network.wait(seconds)
            if self._failure is not None:
                raise self._failure
            if self._is_stalled and not self._try_to_resume():
                await asyncio.sleep(FULL_DISK_RETRY_SECONDS)
                continue
            await self._turn(engine)

    @property
    def stalled(self) -> float:
        """See `Log.stalled`."""
        longest = max(LONGEST_WAIT_SECONDS, FULL_DISK_RETRY_SECONDS)
        return max(0.0, self._env.monotonic() - self._turned_at - longest)

    async def show_life(self, engine: Engine, *, every_seconds: float) -> None:
        """A leader whose disk is slow is heard all the same: only what may leave early leaves."""
        while True:
            await asyncio.sleep(every_seconds)
            if self._syncs.are_under_way:
                for peer, message in engine.take_appends():
                    self._network.send(peer, message)

    async def give_way(self) -> None:
        """A leader whose disk is in trouble hands over, if another voter seems to be better off."""
        while True:
            await asyncio.sleep(GIVE_WAY_SECONDS)
            trouble = self._wellbeing.trouble(self._env.monotonic())
            if trouble and self.leadership.is_leader:
                log.warning("leadership is handed over", reason=trouble)
                await self.transfer(GIVE_WAY_SECONDS + 3 * self._syncs.pace.average_seconds)
                await asyncio.sleep(PAUSE_AFTER_GIVING_WAY_SECONDS)

    def _seconds_to_wait(self) -> float:
        engine = self._engine
        if self._waiting or self._changes or self._errands or engine.has_more_to_do:
            return 0.0
        return min(LONGEST_WAIT_SECONDS, max(SHORTEST_WAIT_SECONDS, engine.seconds_to_deadline()))

    async def _turn(self, engine: Engine) -> None:
        self._give_what_came(engine)
        errands = self._begin_turn(engine)
        if errands is None:
            return
        if not self._journal.is_durable:
            if self._syncs.pace.is_slow:
                await self._syncs.in_thread()
            else:
                self._syncs.at_once()
        self._end_turn(engine, errands)

    def _turn_at_once(self) -> bool:
        """Take a turn where something came, while `drive` sleeps: see `Network.on_arrival`.

        That spares a way over the event loop. Only where the disk is quick: the loop stops for it.
        """
        if self._failure is not None or self._is_stalled or self._syncs.pace.is_slow:
            return False
        try:
            self._give_what_came(self._engine)
            if self._has_nothing_to_do(self._engine):
                return True
            errands = self._begin_turn(self._engine)
            if errands is None:
                return False
            if not self._journal.is_durable:
                self._syncs.at_once()
            self._end_turn(self._engine, errands)
        except BaseException as failure:
            self._failure = failure
            return False
        seconds = self._seconds_to_wait()
        return seconds > 0 and self._env.monotonic() + seconds >= self._wakes_at

    def _has_nothing_to_do(self, engine: Engine) -> bool:
        """Whether what came changed nothing, such as an answer of who answers after a majority."""
        return (
            engine.waits_for_nothing
            and self._reads.are_none
            and not (self._waiting or self._changes or self._errands or self._is_handing_over)
        )

    def _begin_turn(self, engine: Engine) -> list[Errand] | None:
        """Steps 2 to 4: the errands that ran, or None when nothing may leave."""
        if self._syncs.one_was_made:
            self._wellbeing.is_outpaced, self._syncs.one_was_made = engine.has_successor, False
        errands = self._run_errands()
        self._appended = []
        engine.tick()
        self._reads.begin_round(engine)
        if not self._write(engine):
            self._errands[:0] = errands
            self._settle(engine)
            return None
        for peer, message in engine.take_appends():
            self._network.send(peer, message)
        return errands

    def _end_turn(self, engine: Engine, errands: list[Errand]) -> None:
        """Steps 6 and 7, when everything in the journal is durable."""
        for peer, message in engine.take_promises():
            self._network.send(peer, message)
        if not engine.leads:
            engine.apply_committed()
        for errand in errands:
            if not errand.done.done() and errand.result is not None:
                errand.done.set_result(errand.result[0])
        self._settle(engine)
        self._hand_over(engine)
        self._keeper.look(engine)
        self._leave(engine)

    def _give_what_came(self, engine: Engine) -> None:
        for event in self._network.take():
            match event:
                case Connected(peer):
                    engine.connected(peer)
                case Disconnected(peer):
                    engine.disconnected(peer)
                case Received(peer, message):
                    try:
                        engine.receive(peer, message)
                    except ValueError as error:
                        self._network.drop(peer, reason=str(error))

    def _run_errands(self) -> list[Errand]:
        errands, self._errands = self._errands, []
        ran: list[Errand] = []
        for errand in errands:
            if errand.done.done():
                continue
            try:
                if errand.result is None:  # else it was run in a turn that could not be written
                    errand.result = (errand.work(),)
            except LogFailed as failure:
                errand.done.set_exception(failure)
            else:
                ran.append(errand)
        return ran

    def _write(self, engine: Engine) -> bool:
        """Step 3. False: the master falls silent, and nothing of this turn may leave."""
        is_needed = self._journal.is_dirty
        try:
            self._journal.write()
        except NoSpace as error:
            self._wellbeing.was_full(self._env.monotonic())
            self._take_back(error)
            try:
                self._journal.write()
            except NoSpace:
                self._stall(engine, error)
                return False
        else:
            if is_needed:
                self._wellbeing.had_space()
        return True

    def _take_back(self, error: NoSpace) -> None:
        if not self._appended:
            return
        log.warning("the disk is full; proposals were taken back", reason=str(error))
        self._journal.take_back(self._mark)
        self._engine.go_by_members()
        for index in self._appended:
            for proposal in self._under_way.pop(index):
                proposal.refuse(
                    StorageFull(f"this master's disk is full ({error}); {NOTHING_CHANGED}")
                )
        self._appended = []

    def _stall(self, engine: Engine, error: NoSpace) -> None:
        if not self._is_stalled:
            log.error("the disk is full; this master is silent until it is not", reason=str(error))
        self._is_stalled = True
        engine.step_down()
        engine.take_promises()

    def _try_to_resume(self) -> bool:
        """What comes meanwhile is lost, as if the network had lost it; connections are kept track of."""
        try:
            self._journal.write()
        except NoSpace:
            for event in self._network.take():
                if isinstance(event, Connected):
                    self._engine.connected(event.peer)
                elif isinstance(event, Disconnected):
                    self._engine.disconnected(event.peer)
            return False
        log.info("there is space on the disk again")
        self._is_stalled = False
        return True

    # What the engine asks in its tick.

    def append_waiting(self) -> None:
        engine = self._engine
        if not engine.leads_settled or self._is_handing_over:
            return
        self._mark = self._journal.mark()
        self._term_under_way = engine.term
        while self._changes:
            self._append_change(self._changes.popleft())
        size = 0
        while self._waiting and size < TURN_BYTES:
            batch, batch_size = next_batch(self._waiting)
            if batch:
                index = engine.append(codec.encode_batch([p.entry for p in batch]))
                self._under_way[index] = batch
                self._appended.append(index)
            size += batch_size

    def _append_change(self, change: Change) -> None:
        if change.proposal.answer.done():
            return
        try:
            index = self._engine.change_members(change.edit)
        except Conflict as conflict:
            change.proposal.refuse(conflict)
            return
        self._under_way[index] = [change.proposal]
        self._appended.append(index)

    def members_changed(self, configuration: Configuration) -> None:
        self._network.set_peers(configuration.addresses_beside(self._node))

    def apply(self, command: bytes, index: int, term: int) -> None:
        proposals = self._under_way.pop(index, [])
        if term != self._term_under_way:
            refuse_unknown(proposals)
            proposals = []
        kind = command[0]
        self._keeper.count(command)
        if kind == codec.NO_OP:
            return
        if kind == codec.MEMBERSHIP:
            self._answer(proposals, [True])
            return
        if kind != codec.REGULAR:
            raise LogFailed(f"entry {index} is of kind {kind}, which this version does not know")
        try:
            answers = [self._machine.apply(entry) for entry in codec.decode_batch(command)]
        except Exception as error:
            raise LogFailed(f"entry {index} cannot be applied: {error}") from error
        self._answer(proposals, answers)

    def _answer(self, proposals: list[Proposal], answers: list[bool]) -> None:
        now = self._env.monotonic() if proposals else 0.0
        for proposal, answer in zip(proposals, answers, strict=False):
            self._meters.proposal.observe(now - proposal.asked_at)
            if not proposal.answer.done():
                proposal.answer.set_result(answer)

    # Settling.

    def _settle(self, engine: Engine) -> None:
        if not engine.leads or engine.term != self._term_under_way:
            for proposals in self._under_way.values():
                refuse_unknown(proposals)
            self._under_way.clear()
        if self._reads.settle(engine):
            self._network.wake()
        now = Leadership(engine.term, engine.leads_settled, engine.leader)
        if now != self.leadership:
            self._announce(now)
        if not now.is_leader or self._is_handing_over:
            while self._waiting:
                self._waiting.popleft().refuse(NotLeader(self._who_leads()))
            while self._changes:
                self._changes.popleft().proposal.refuse(NotLeader(self._who_leads()))

    def _hand_over(self, engine: Engine) -> None:
        if self._is_handing_over and not self._asked_to_take_over and not self._under_way:
            self._asked_to_take_over = engine.hand_over(self._heir)
            for peer, message in engine.take_promises():
                self._network.send(peer, message)

    def _leave(self, engine: Engine) -> None:
        """A master whose removal is committed hands over if it leads, and stops. Raises Removed."""
        by = engine.removed_by
        if by is None:
            return
        if engine.leads:
            now = self._env.monotonic()
            if self._leaves_at is None:
                self._leaves_at, self._asked_to_take_over = now + LEAVE_SECONDS, False
            self._is_handing_over = True
            if now < self._leaves_at:
                return
            engine.step_down()
        raise Removed(
            f"this master was removed from the cluster by {by}; its data folder can be deleted"
        )

    def _announce(self, now: Leadership) -> None:
        if (now.term, now.leader) != (self.leadership.term, self.leadership.leader):
            self._meters.leadership_changes += now.leader is not None
            log.info("leadership changed", term=now.term, leader=now.leader)
        self.leadership = now
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def stop(self, failure: LogFailed | None) -> None:
        """Answer everybody who waits; those whose entry may be committed are told just that."""
        for proposals in self._under_way.values():
            for proposal in proposals:
                proposal.refuse(
                    LogFailed(str(failure))
                    if failure is not None
                    else OutcomeUnknown("this master stopped while it was writing the change")
                )
        self._under_way.clear()
        for proposal in self._waiting:
            proposal.refuse(NotLeader(f"this master is stopping; {NOTHING_CHANGED}"))
        self._waiting.clear()
        for change in self._changes:
            change.proposal.refuse(NotLeader(f"this master is stopping; {NOTHING_CHANGED}"))
        self._changes.clear()
        self._reads.refuse("this master is stopping")
        for errand in self._errands:
            errand.done.cancel()
        self._announce(Leadership(self.leadership.term, False, None))
