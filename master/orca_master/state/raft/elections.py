"""Elections: who may lead in a term. The part of the engine that decides before there is a leader.

The library stands for election and counts (syncobj.py, `_onTick`); put right here are

    votes        answered by a term, also when refused; a candidate that asks again is told again
    pre-vote     nobody raises his term before a majority would vote for him (thesis 9.6)
    stickiness   who hears a leader votes for nobody else (section 6)
    TimeoutNow   a leader that goes has its successor stand at once (thesis 3.10)
    members      who counts is what the configuration in force says, this master itself included

The library counts its own vote always, and all others in one set of nodes. So that set is made of
the other voters and, on a master that is no voter (a leader on its way out, section 4.2.2 of the
thesis), of one seat more, which stays empty: it takes back what the library counts too much.

`protocol` builds the rest of the engine on it.
"""

from dataclasses import dataclass
from typing import Any

from pysyncobj import SyncObj, SyncObjConf

from orca_common.env import Env
from orca_master.state.log import LogFailed
from orca_master.state.raft import library
from orca_master.state.raft.codec import (
    Message,
    PreVote,
    PreVoteReply,
    RequestVote,
    TimeoutNow,
    VoteReply,
)
from orca_master.state.raft.followers import Followers
from orca_master.state.raft.journal import Journal
from orca_master.state.raft.library import CANDIDATE, FOLLOWER, LEADER, Seat
from orca_master.state.raft.members import Configuration
from orca_master.state.raft.meters import Meters

NEVER = float("-inf")
EMPTY_SEAT = ""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. An election needs `election` of silence, a leader steps down after `quorum_lost`."""

    election_min: float = 0.4
    election_max: float = 0.8
    heartbeat: float = 0.1
    quorum_lost: float = 0.8


class Elections(SyncObj):  # type: ignore[misc]
    """One master's term, vote and role. What it wants to send waits until the driver takes it."""

    def __init__(
        self,
        env: Env,
        node: str,
        journal: Journal,
        *,
        timing: Timing,
        max_append_bytes: int,
        meters: Meters,
    ) -> None:
        # Before the library's own beginning, which looks at every attribute (syncobj.py, __init__).
        self._env = env
        self._node = node
        self._journal = journal
        self._timing = timing
        self._meters = meters
        self._up: set[str] = set()
        self._counted: Configuration | None = None
        """What the library's set of nodes was made from."""
        self._votes: set[str] = set()
        self._pre_votes: set[str] = set()
        self._attempt = 0
        self._told_removed_by: str | None = None
        self._may_stand = False
        self._was_asked_to_stand = False
        self._heard_leader_at = NEVER
        self._current_at = NEVER
        self._promises: list[tuple[str, Message]] = []
        self.followers = Followers(
            env,
            node,
            journal,
            heartbeat_seconds=timing.heartbeat,
            max_append_bytes=max_append_bytes,
        )
        configuration = SyncObjConf(
            autoTick=False,
            appendEntriesUseBatch=True,  # without it the library wakes itself through a pipe
            raftMinTimeout=timing.election_min,
            raftMaxTimeout=timing.election_max,
            appendEntriesPeriod=timing.heartbeat,
            leaderFallbackTimeout=timing.quorum_lost,
            connectionTimeout=timing.quorum_lost + 1,
        )
        self._on_clock = library.OnClockOf(env)
        with self._on_clock, library.with_journal(journal):
            super().__init__(
                Seat(node),
                [],
                configuration,
                transport=library.Outlet(self._send_for_library),
            )
        self._poller = library.IdlePoller()
        self._SyncObj__serializer = library.NoSerializer()
        self._SyncObj__needLoadDumpFile = False

    @property
    def term(self) -> int:
        return int(self._SyncObj__raftCurrentTerm)

    @property
    def leads(self) -> bool:
        return bool(self._SyncObj__raftState == LEADER)

    @property
    def leader(self) -> str | None:
        member = self._SyncObj__raftLeader
        return None if member is None else str(member.id)

    @property
    def commit_index(self) -> int:
        return int(self._SyncObj__raftCommitIndex)

    # Members.

    @property
    def configuration(self) -> Configuration:
        """The members in force: those of the newest configuration in the log, committed or not."""
        return self._journal.members.in_force

    @property
    def is_alone(self) -> bool:
        """Whether this master is the only voter: then nobody else need be heard."""
        return self.configuration.voters == {self._node}

    @property
    def _may_ever_stand(self) -> bool:
        """A voter; also one that was, until it is known that its removal is committed (4.2.2)."""
        members = self._journal.members
        return self._node in self.configuration.voters or (
            members.index > self.commit_index and self._node in members.before.voters
        )

    def _is_majority(self, those: set[str]) -> bool:
        voters = self.configuration.voters
        return len(voters & those) > len(voters) // 2

    def _count_by_members(self) -> None:
        """Let the library count by the members in force, and by what each of them has answered."""
        configuration = self.configuration
        if configuration is not self._counted and configuration != self._counted:
            self._counted = configuration
            names = sorted(configuration.voters - {self._node})
            if self._node not in configuration.voters:
                names.append(EMPTY_SEAT)
            self._SyncObj__otherNodes = {Seat(name) for name in names}
            self.followers.go_by(configuration, self._up)
        if self.leads:
            for seat in self._SyncObj__otherNodes:
                matched, heard_at = self.followers.answers_of(seat.id)
                self._SyncObj__raftMatchIndex[seat] = matched
                self._SyncObj__lastResponseTime[seat] = heard_at

    def step_down(self, term: int | None = None) -> None:
        """Be a follower, in this newer term if one is given."""
        if term is not None and term > self.term:
            self._SyncObj__setCurrentTerm(term, None)
        was_leader = self.leads
        self._SyncObj__setState(FOLLOWER)
        self._take_for_leader(None)
        if was_leader:
            self._renew_election_deadline()

    def take_promises(self) -> list[tuple[str, Message]]:
        """What may leave only after everything in the journal is durable."""
        promises, self._promises = self._promises, []
        return promises

    def _send(self, peer: str, message: Message) -> None:
        self._promises.append((peer, message))

    def _send_for_library(self, seat: Seat, message: dict[str, Any]) -> None:
        """The only message that the library still makes itself is a candidate's."""
        if message["type"] != "request_vote":
            raise LogFailed(f"the library sends {message['type']!r}, which nobody here expects")
        if seat.id == EMPTY_SEAT:
            return
        self._send(
            seat.id,
            RequestVote(
                term=message["term"],
                last_index=message["last_log_index"],
                last_term=message["last_log_term"],
                is_transfer=self._was_asked_to_stand,
            ),
        )

    def _take_for_leader(self, peer: str | None) -> None:
        if peer != self.leader:
            self._SyncObj__raftLeader = None if peer is None else Seat(peer)

    # Votes.

    def _renew_election_deadline(self) -> None:
        self._SyncObj__raftElectionDeadline = (
            self._env.monotonic() + self._SyncObj__generateRaftTimeout()
        )

    def _SyncObj__generateRaftTimeout(self) -> float:
        return self._env.random.uniform(self._timing.election_min, self._timing.election_max)

    def _hears_a_leader(self) -> bool:
        since = self.followers.heard_from_quorum_at() if self.leads else self._heard_leader_at
        return self._env.monotonic() - since < self._timing.election_min

    @property
    def _has_members(self) -> bool:
        """A master that was never told of any may be one that lost its disk, and a vote with it."""
        return bool(self.configuration.members)

    def _is_up_to_date(self, message: PreVote | RequestVote) -> bool:
        """Section 5.4.1."""
        ours = (self._journal.last_term, self._journal.last_index)
        return (message.last_term, message.last_index) >= ours

    def _seek_pre_votes(self) -> None:
        """Keep the library from standing until a majority would vote for us."""
        if self.leads:
            return
        if self.is_alone and not self._hears_a_leader():
            self._stand(is_transfer=False)
        if self._SyncObj__raftElectionDeadline >= self._env.monotonic():
            return
        if self._may_stand and self._may_ever_stand:
            self._may_stand = False
            self._votes = {self._node}
            self._meters.elections_stood += 1
            return
        self._renew_election_deadline()
        if not self._hears_a_leader():
            self._take_for_leader(None)
        self._may_stand = False
        if not self._may_ever_stand:
            return
        self._attempt += 1
        self._pre_votes = {self._node}
        request = PreVote(
            term=self.term,
            attempt=self._attempt,
            last_index=self._journal.last_index,
            last_term=self._journal.last_term,
        )
        for peer in sorted(self.configuration.voters - {self._node}):
            self._send(peer, request)

    def _stand(self, *, is_transfer: bool) -> None:
        """Stand for election in the next tick."""
        self._attempt += 1
        self._may_stand = True
        self._was_asked_to_stand = is_transfer
        self._SyncObj__raftElectionDeadline = NEVER

    def _on_pre_vote(self, peer: str, message: PreVote) -> None:
        is_granted = (
            message.term >= self.term
            and self._has_members
            and not self._hears_a_leader()
            and self._is_up_to_date(message)
        )
        removed_by = self._journal.members.at(self.commit_index).removed_by(peer) or ""
        self._send(peer, PreVoteReply(self.term, message.attempt, is_granted, removed_by))

    def _on_pre_vote_reply(self, peer: str, message: PreVoteReply) -> None:
        if message.removed_by:  # no id ever comes back, so that is true for good
            self._told_removed_by = message.removed_by
        elif message.term > self.term:
            self.step_down(message.term)
        elif message.is_granted and message.attempt == self._attempt and not self.leads:
            self._pre_votes.add(peer)
            if self._is_majority(self._pre_votes):
                self._stand(is_transfer=False)

    def _on_request_vote(self, peer: str, message: RequestVote) -> None:
        if message.term >= self.term and (message.is_transfer or not self._hears_a_leader()):
            if message.term > self.term:
                self.step_down(message.term)
            vote = self._SyncObj__votedForNodeId
            is_free = self._SyncObj__raftState == FOLLOWER and vote in (None, peer)
            if is_free and self._has_members and self._is_up_to_date(message):
                if vote is None:
                    self._SyncObj__setCurrentTerm(self.term, peer)
                self._renew_election_deadline()
                self._send(peer, VoteReply(self.term, is_granted=True))
                return
        self._send(peer, VoteReply(self.term, is_granted=False))

    def _on_vote_reply(self, peer: str, message: VoteReply) -> None:
        if message.term > self.term:
            self.step_down(message.term)
        elif (
            message.is_granted
            and message.term == self.term
            and self._SyncObj__raftState == CANDIDATE
        ):
            self._votes.add(peer)
            if self._is_majority(self._votes):
                self._SyncObj__onBecomeLeader()

    def _SyncObj__onBecomeLeader(self) -> None:
        self.followers.begin(self.term, self.configuration, self._up)
        super()._SyncObj__onBecomeLeader()

    def _on_timeout_now(self, peer: str, message: TimeoutNow) -> None:
        is_ours = message.term == self.term and self.leader == peer and not self.leads
        if is_ours and self._may_ever_stand:
            self._stand(is_transfer=True)
