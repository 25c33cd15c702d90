"""The Raft engine: the library's `SyncObj` with the handlers that break Raft's rules put right.

The library keeps the state and commits (syncobj.py, `_onTick`); `elections` is the part that settles
who leads. Overridden here, with the rule of figure 2 or the section that asks for it:

    append entries    only conflicting entries are removed (rule 3); the commit index moves only over
                      entries that were just found to match (rule 5); every answer carries a term
    answers           those of other terms are ignored; an index once matched never goes back
    snapshots         arrive in pieces, move nothing until they are whole and durable; the entries
                      behind them stay (section 7)
    applying          an error stops everything; nothing is skipped or applied twice
    members           one change at a time, the first after an entry of the leader's own term
                      (thesis 4.1 with the correction of 2015); who is asked or heard is not filtered
                      by them, only who counts: others may know of newer members than we do

It only queues: what it wants to send waits in two boxes until the driver has made durable what it
promises. Calls come from one task.
"""

from collections.abc import Callable
from typing import Protocol

from orca_common.env import Env
from orca_common.logs import get_logger
from orca_master.errors import Conflict
from orca_master.state.log import LogFailed
from orca_master.state.raft import codec
from orca_master.state.raft.codec import (
    Append,
    AppendReply,
    Message,
    Piece,
    PieceReply,
    PreVote,
    PreVoteReply,
    RequestVote,
    TimeoutNow,
    VoteReply,
)
from orca_master.state.raft.elections import Elections, Timing
from orca_master.state.raft.journal import Journal
from orca_master.state.raft.library import FOLLOWER, Seat
from orca_master.state.raft.members import Configuration, command_of
from orca_master.state.raft.meters import Meters
from orca_master.state.raft.snapshot import Arrival
from orca_master.state.raft.standing import Standing
from orca_master.state.solo.snapshots import Snapshot

APPLIED_PER_TICK = 1000
APPLYING_SECONDS = 0.02
"""Who catches up applies for so long, or one entry, at a time: others want a turn of the loop."""

log = get_logger("state.raft")


class Host(Protocol):
    """What stands around the engine: the driver."""

    def append_waiting(self) -> None:
        """The moment for new entries; called only in a tick of a leader."""
        ...

    def apply(self, command: bytes, index: int, term: int) -> None:
        """Apply a committed command. Raises LogFailed."""
        ...

    def members_changed(self, configuration: Configuration) -> None:
        """Other members are in force than before."""
        ...


class Engine(Elections):
    """One master's part in the protocol."""

    def __init__(
        self,
        env: Env,
        node: str,
        journal: Journal,
        host: Host,
        *,
        applied_index: int,
        timing: Timing,
        max_append_bytes: int,
        meters: Meters,
    ) -> None:
        # Before the library's own beginning, which looks at every attribute (syncobj.py, __init__).
        self._host = host
        self.arrival = Arrival()
        super().__init__(
            env,
            node,
            journal,
            timing=timing,
            max_append_bytes=max_append_bytes,
            meters=meters,
        )
        self._SyncObj__raftLastApplied = max(1, applied_index)
        self._SyncObj__raftCommitIndex = max(1, applied_index)

    # What the driver sees.

    @property
    def leads_settled(self) -> bool:
        """Leads, and its own first entry, hence every earlier one, is applied (section 8)."""
        return self.leads and self._journal.term_at(self.applied_index) == self.term

    @property
    def applied_index(self) -> int:
        return int(self._SyncObj__raftLastApplied)

    @property
    def age(self) -> float:
        """See `Log.age`. A leader that was cut off goes on for `quorum_lost`, and so may we with it."""
        now = self._env.monotonic()
        if self.leads_settled:
            return max(0.0, now - self.followers.heard_from_quorum_at())
        return now - self._current_at + self._timing.quorum_lost

    @property
    def may_confirm_reads(self) -> bool:
        """A leader knows the commit index only once an entry of its own term is committed (6.4)."""
        return self.leads and self._journal.term_at(self.commit_index) == self.term

    def tick(self) -> None:
        """Elections, commits, applying, new entries; what follows from them waits to be sent."""
        with self._on_clock:
            led = self.leads
            self.go_by_members()
            self._seek_pre_votes()
            if self._is_patient:
                return
            self.doTick(0.0)
            if led and not self.leads:  # a majority was silent; it must not stand again at once
                self._renew_election_deadline()

    @property
    def _is_patient(self) -> bool:
        """Whether the library has nothing to do in a tick: it follows, and does not stand yet."""
        return bool(
            self._SyncObj__raftState == FOLLOWER
            and self._SyncObj__raftElectionDeadline >= self._env.monotonic()
        )

    def apply_committed(self) -> None:
        """Apply what is committed, up to a limit. Raises LogFailed.

        A leader does so in its tick. A follower does so when it has answered: the leader waits for
        the answer, and nobody waits for this.
        """
        if self.applied_index >= self.commit_index:
            return
        until = min(self.commit_index, self.applied_index + APPLIED_PER_TICK)
        deadline = self._env.monotonic() + APPLYING_SECONDS
        while self.applied_index < until:
            index = self.applied_index + 1
            command, _, term = self._journal[index - self._journal.first_index]
            self._host.apply(command, index, term)
            self._SyncObj__raftLastApplied = index
            if self._env.monotonic() > deadline:
                return

    @property
    def has_more_to_do(self) -> bool:
        """Whether another tick will do something even if nothing comes."""
        if self.applied_index < self.commit_index:
            return True
        if not self.is_alone:
            return False
        if self.leads:
            return self.commit_index < self._journal.last_index
        return not self._hears_a_leader()

    @property
    def waits_for_nothing(self) -> bool:
        """Leads, everything is committed that can be, and everybody was sent all of it.

        Then a tick before the next deadline does nothing.
        """
        return (
            self.leads
            and not self._promises
            and not self._journal.is_dirty
            and self.applied_index == self.commit_index
            and self.followers.matched_by_quorum() <= self.commit_index
            and self.followers.have_all_been_sent
        )

    def seconds_to_deadline(self) -> float:
        """How long there is nothing to do, if nothing comes."""
        now = self._env.monotonic()
        if self.leads:
            return self.followers.next_heartbeat_at() - now
        return float(self._SyncObj__raftElectionDeadline) - now

    def append(self, command: bytes) -> int:
        """As a leader, add an entry of this term; returns its index."""
        index = self._journal.last_index + 1
        self._journal.add(command, index, self.term)
        return index

    # Members.

    def go_by_members(self) -> None:
        """Count by the members in force, and say so if they are others than before."""
        before = self._counted
        self._count_by_members()
        if self._counted is not before:
            self._host.members_changed(self.configuration)

    @property
    def is_changing(self) -> bool:
        """Whether the members in force are, as far as we know, not committed."""
        return self._journal.members.index > self.commit_index

    @property
    def removed_by(self) -> str | None:
        """Who removed this master, once it has applied that or was told; else None."""
        if self._told_removed_by is not None:
            return self._told_removed_by
        return self._journal.members.at(self.applied_index).removed_by(self._node)

    def change_members(self, edit: Callable[[Configuration], Configuration]) -> int:
        """As a leader, append what the edit makes of the members; returns the entry's index.

        Raises Conflict: what the edit raises, or that it is too early for a change.
        """
        self._check_may_change()
        index = self.append(command_of(edit(self.configuration)))
        self.go_by_members()
        return index

    def _check_may_change(self) -> None:
        if self.is_changing:
            raise Conflict("another change of members is under way: ask again when it is done")
        if not self.may_confirm_reads:
            raise Conflict("this master has only begun to lead: ask again in a moment")

    def standing(self) -> Standing:
        return Standing(
            term=self.term,
            commit_index=self.commit_index,
            applied_index=self.applied_index,
            last_index=self._journal.last_index,
            members=self.followers.progress() if self.leads else (),
        )

    def take_appends(self) -> list[tuple[str, Message]]:
        """What a leader sends to replicate. It may leave before our own log is durable."""
        return self.followers.due(self.commit_index) if self.leads else []

    def hand_over(self, to: str | None = None) -> bool:
        """Ask this voter, or the one that is furthest, to stand (thesis 3.10). False: it has not all
        of our log yet."""
        best = self.followers.most_caught_up() if self.leads else None
        if best is None or not self.followers.is_close(to or best[0], within=0):
            return False
        self._send(to or best[0], TimeoutNow(self.term))
        return True

    @property
    def has_successor(self) -> bool:
        """Whether some other voter answers and has all of our log, which may not be durable here."""
        best = self.followers.most_caught_up() if self.leads else None
        return best is not None and self.followers.is_close(best[0], within=0)

    def installed(self, index: int, term: int, configuration: Configuration) -> None:
        """The machine holds the snapshot of this entry now, and it is durable; stand behind it."""
        if self._journal.term_at(index) != term:
            self._journal.reset(index, term, configuration)
        else:
            self._journal.members.begin_at(index, configuration)
        self._SyncObj__raftLastApplied = index
        self._SyncObj__raftCommitIndex = max(index, self.commit_index)

    def lagging(self) -> list[str]:
        """Followers that need a snapshot and are sent none."""
        return self.followers.lagging() if self.leads else []

    def are_streamed_to(self) -> bool:
        return self.leads and self.followers.are_streamed_to

    def offer(self, peer: str, snapshot: Snapshot) -> None:
        if self.leads:
            self.followers.offer(peer, snapshot)

    def answer_written(self, peer: str, snapshot_index: int, wanted: int) -> None:
        self._send(peer, PieceReply(self.term, 0, snapshot_index, wanted, is_installed=False))

    def answer_refused(self, peer: str, snapshot_index: int) -> None:
        self._send(peer, PieceReply(self.term, 0, snapshot_index, 0, is_installed=False))

    def answer_installed(self, peer: str, snapshot_index: int) -> None:
        self._send(peer, PieceReply(self.term, 0, snapshot_index, 0, is_installed=True))

    # Connections and messages.

    def connected(self, peer: str) -> None:
        self._up.add(peer)
        self._SyncObj__onNodeConnected(Seat(peer))
        self.followers.connected(peer)

    def disconnected(self, peer: str) -> None:
        self._up.discard(peer)
        self._SyncObj__onNodeDisconnected(Seat(peer))
        self.followers.disconnected(peer)

    def receive(self, peer: str, message: Message) -> None:
        """Raises LogFailed if the message shows that safety is lost, and ValueError on nonsense."""
        with self._on_clock:
            match message:
                case Append():
                    self._on_append(peer, message)
                case AppendReply():
                    self._on_append_reply(peer, message)
                case PreVote():
                    self._on_pre_vote(peer, message)
                case PreVoteReply():
                    self._on_pre_vote_reply(peer, message)
                case RequestVote():
                    self._on_request_vote(peer, message)
                case VoteReply():
                    self._on_vote_reply(peer, message)
                case TimeoutNow():
                    self._on_timeout_now(peer, message)
                case Piece():
                    self._on_piece(peer, message)
                case PieceReply():
                    self._on_piece_reply(peer, message)

    # A follower's side.

    def _follow(self, peer: str, term: int) -> None:
        """Take the sender for the leader of its term, which is not older than ours."""
        if term > self.term:
            self.step_down(term)
        elif self.leads:
            raise LogFailed(f"{peer} leads in term {term}, and so does this master")
        self._SyncObj__setState(FOLLOWER)
        self._take_for_leader(peer)
        self._heard_leader_at = self._env.monotonic()
        self._may_stand = False
        self._renew_election_deadline()

    def _on_append(self, peer: str, message: Append) -> None:
        if message.term < self.term:
            self._send(
                peer, AppendReply(self.term, message.number, message.round, False, next_index=0)
            )
            return
        self._follow(peer, message.term)
        matches, next_index = self._match(message)
        self._send(peer, AppendReply(self.term, message.number, message.round, matches, next_index))

    def _match(self, message: Append) -> tuple[bool, int]:
        """Whether our log agrees with the message, and where the leader goes on."""
        journal = self._journal
        previous, first = message.previous_index, journal.first_index
        if previous > journal.last_index:
            return False, journal.last_index + 1
        # What is before our first entry is committed, hence the same in every leader's log.
        if previous >= first and journal.term_at(previous) != message.previous_term:
            if previous <= self.commit_index:
                raise LogFailed(f"a leader's log lacks the committed entry {previous}")
            return False, self._first_of_its_term(previous)
        entries = codec.unpack_entries(message.entries, first_index=previous + 1)
        self._take_entries([entry for entry in entries if entry[1] > first])
        last_new = previous + len(entries)
        if last_new <= journal.last_index:
            self._SyncObj__raftCommitIndex = max(self.commit_index, min(message.commit, last_new))
            if self.applied_index >= message.commit:
                self._current_at = self._env.monotonic()
        return True, last_new + 1

    def _first_of_its_term(self, index: int) -> int:
        """Where to try next: all entries of a term that conflicts are stepped over at once (5.3)."""
        term = self._journal.term_at(index)
        least = max(self._journal.first_index, self.commit_index) + 1
        while index > least and self._journal.term_at(index - 1) == term:
            index -= 1
        return index

    def _take_entries(self, entries: list[codec.Entry]) -> None:
        journal = self._journal
        for position, (_, index, term) in enumerate(entries):
            if index <= journal.last_index:
                if journal.term_at(index) == term:
                    continue
                if index <= self.commit_index:
                    raise LogFailed(f"a leader would replace the committed entry {index}")
                journal.cut_from(index)
            for entry in entries[position:]:
                journal.add(*entry)
            return

    def _on_piece(self, peer: str, message: Piece) -> None:
        if message.term < self.term:
            self._send(peer, PieceReply(self.term, message.round, message.index, 0, False))
            return
        self._follow(peer, message.term)
        if message.index <= self.applied_index:
            self._send(peer, PieceReply(self.term, message.round, message.index, 0, True))
        else:
            self.arrival.put(peer, message)  # answered when it is written

    # A leader's side.

    def _on_append_reply(self, peer: str, message: AppendReply) -> None:
        if self._is_answer_to_us(message.term):
            self.followers.append_answered(peer, message)

    def _on_piece_reply(self, peer: str, message: PieceReply) -> None:
        if self._is_answer_to_us(message.term):
            self.followers.piece_answered(peer, message)

    def _is_answer_to_us(self, term: int) -> bool:
        if term > self.term:
            self.step_down(term)
        return self.leads and term == self.term

    # Called by the library in its tick.

    def _SyncObj__sendAppendEntries(self) -> None:
        """Nothing leaves in the middle of a tick: the driver takes it from `take_appends`."""

    def _SyncObj__tryLogCompaction(self) -> None:
        """Snapshots are taken by `snapshot`, off the tick."""

    def _SyncObj__applyLogEntries(self) -> bool:
        if self.leads:
            self.apply_committed()
        return False

    def _checkCommandsToApply(self) -> None:
        if self.leads:
            self._host.append_waiting()

    def _SyncObj__doApplyCommand(self, command: bytes) -> None:
        raise LogFailed("the library applies a command itself, which it never should")
