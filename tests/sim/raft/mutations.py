"""Faults planted on purpose, to see that the histories find them: each breaks one rule of the log.

A mutation replaces a method of ours for the length of a `with`. The name says what is broken.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from orca_master.errors import Conflict
from orca_master.state.raft import journal
from orca_master.state.raft.codec import Append, RequestVote, VoteReply
from orca_master.state.raft.driver import Driver
from orca_master.state.raft.journal import Journal
from orca_master.state.raft.log import RaftLog
from orca_master.state.raft.members import Configuration, History
from orca_master.state.raft.protocol import Engine
from orca_master.state.solo import snapshots


@contextmanager
def the_vote_is_not_written() -> Iterator[None]:
    def record(term: int, vote: str | None) -> bytes:
        return usual(term, None)

    usual = journal._vote_record
    with mock.patch.object(journal, "_vote_record", record):
        yield


@contextmanager
def the_term_is_not_written() -> Iterator[None]:
    def forget(self: Journal, term: int, votedForNodeId: str | None) -> None:
        self._term, self._vote = term, votedForNodeId

    with mock.patch.object(Journal, "setCurrentTerm", forget):
        yield


@contextmanager
def answers_leave_before_the_sync() -> Iterator[None]:
    def begin_turn(self: Driver, engine: Engine) -> Any:
        errands = usual(self, engine)
        if errands is not None:
            for peer, message in engine.take_promises():
                self._network.send(peer, message)
        return errands

    usual = Driver._begin_turn
    with mock.patch.object(Driver, "_begin_turn", begin_turn):
        yield


@contextmanager
def answers_of_other_terms_count() -> Iterator[None]:
    with mock.patch.object(Engine, "_is_answer_to_us", lambda self, term: self.leads):
        yield


@contextmanager
def entries_that_agree_are_removed_too() -> Iterator[None]:
    def take(self: Engine, entries: list[Any]) -> None:
        if entries and entries[0][1] <= self._journal.last_index:
            self._journal.cut_from(entries[0][1])
        for entry in entries:
            self._journal.add(*entry)

    with mock.patch.object(Engine, "_take_entries", take):
        yield


@contextmanager
def entries_of_older_terms_are_committed_by_counting() -> Iterator[None]:
    def tick(self: Any) -> None:
        if self.leads:
            others = self.configuration.voters - {self._node}
            matched = sorted((self.followers.answers_of(o)[0] for o in others), reverse=True)
            index = matched[(len(matched) + 1) // 2 - 1]
            self._SyncObj__raftCommitIndex = max(self.commit_index, index)
        usual(self)

    usual = Engine.tick
    with mock.patch.object(Engine, "tick", tick):
        yield


@contextmanager
def snapshots_are_published_before_they_are_synced() -> Iterator[None]:
    with mock.patch.object(snapshots._Writing, "sync"):
        yield


@contextmanager
def reads_are_local() -> Iterator[None]:
    async def barrier(self: RaftLog) -> None:
        self._check_running()
        self._driver._check_leads()

    with mock.patch.object(RaftLog, "barrier", barrier):
        yield


@contextmanager
def a_start_drops_the_entries_after_the_snapshot() -> Iterator[None]:
    def begin_after(
        self: Journal, index: int, term: int, configuration: Configuration, *, keep: int
    ) -> None:
        if index:
            self.reset(index, term, configuration)

    with mock.patch.object(Journal, "begin_after", begin_after):
        yield


@contextmanager
def the_commit_index_moves_over_entries_that_were_not_compared() -> Iterator[None]:
    """As the library did while a snapshot arrived."""

    def match(self: Any, message: Append) -> tuple[bool, int]:
        answer = usual(self, message)
        commit = min(message.commit, self._journal.last_index)
        self._SyncObj__raftCommitIndex = max(self.commit_index, commit)
        return answer

    usual = Engine._match
    with mock.patch.object(Engine, "_match", match):
        yield


@contextmanager
def a_follower_claims_more_than_it_compared() -> Iterator[None]:
    def match(self: Engine, message: Append) -> tuple[bool, int]:
        matches, next_index = usual(self, message)
        return matches, self._journal.last_index + 1 if matches else next_index

    usual = Engine._match
    with mock.patch.object(Engine, "_match", match):
        yield


@contextmanager
def a_vote_that_comes_twice_counts_twice() -> Iterator[None]:
    def on_vote(self: Any, peer: str, message: VoteReply) -> None:
        voters = sorted(self.configuration.voters - self._votes)
        usual(self, voters[0] if voters else peer, message)

    usual = Engine._on_vote_reply
    with mock.patch.object(Engine, "_on_vote_reply", on_vote):
        yield


@contextmanager
def a_vote_is_given_to_everybody() -> Iterator[None]:
    def on_request(self: Any, peer: str, message: RequestVote) -> None:
        if message.term == self.term:
            self._SyncObj__votedForNodeId = None
        usual(self, peer, message)

    usual = Engine._on_request_vote
    with mock.patch.object(Engine, "_on_request_vote", on_request):
        yield


@contextmanager
def shorter_logs_may_win() -> Iterator[None]:
    def always(self: Engine, message: object) -> bool:
        return True

    with mock.patch.object(Engine, "_is_up_to_date", always):
        yield


@contextmanager
def a_refused_proposal_stays_in_the_log() -> Iterator[None]:
    with mock.patch.object(Journal, "take_back"):
        yield


@contextmanager
def truncations_are_not_written() -> Iterator[None]:
    def cut(self: Journal, entryFrom: int) -> None:
        if 0 < entryFrom < len(self._entries):
            del self._entries[entryFrom:]

    with mock.patch.object(Journal, "deleteEntriesFrom", cut):
        yield


@contextmanager
def proposals_are_acknowledged_when_appended() -> Iterator[None]:
    def settle(self: Driver, engine: Engine) -> None:
        for proposals in self._under_way.values():
            for proposal in proposals:
                if not proposal.answer.done():
                    proposal.answer.set_result(True)
        usual(self, engine)

    usual = Driver._settle
    with mock.patch.object(Driver, "_settle", settle):
        yield


@contextmanager
def a_lost_leadership_is_answered_as_a_refusal() -> Iterator[None]:
    from orca_master.errors import NotLeader
    from orca_master.state.raft import driver

    def refuse(proposals: list[Any]) -> None:
        for proposal in proposals:
            proposal.refuse(NotLeader("nothing was changed"))

    with mock.patch.object(driver, "refuse_unknown", refuse):
        yield


@contextmanager
def a_configuration_is_in_force_only_when_committed() -> Iterator[None]:
    def configuration(self: Engine) -> Configuration:
        return self._journal.members.at(self.commit_index)

    with mock.patch.object(Engine, "configuration", property(configuration)):
        yield


@contextmanager
def a_configuration_that_is_cut_off_stays_in_force() -> Iterator[None]:
    with mock.patch.object(History, "cut_from"):
        yield


@contextmanager
def learners_count_for_the_commit() -> Iterator[None]:
    def tick(self: Any) -> None:
        if self.leads:
            others = self.configuration.ids - {self._node}
            matched = [self.followers.answers_of(other)[0] for other in others]
            matched = sorted([self._journal.last_index, *matched], reverse=True)
            index = matched[len(self.configuration.voters) // 2]
            if self._journal.term_at(index) == self.term:
                self._SyncObj__raftCommitIndex = max(self.commit_index, index)
        usual(self)

    usual = Engine.tick
    with mock.patch.object(Engine, "tick", tick):
        yield


@contextmanager
def members_change_before_an_entry_of_the_own_term() -> Iterator[None]:
    """As the thesis had it until its correction of 2015."""

    def check(self: Engine) -> None:
        if self.is_changing:
            raise Conflict("another change")

    def leads(self: Engine) -> bool:
        return self.leads

    with (
        mock.patch.object(Engine, "_check_may_change", check),
        mock.patch.object(Engine, "leads_settled", property(leads)),
    ):
        yield


@contextmanager
def members_change_twice_at_once() -> Iterator[None]:
    def check(self: Engine) -> None:
        """Whoever asks may."""

    with mock.patch.object(Engine, "_check_may_change", check):
        yield


@contextmanager
def a_start_forgets_the_configurations_after_the_snapshot() -> Iterator[None]:
    with mock.patch.object(Journal, "_note_members"):
        yield


@contextmanager
def a_snapshot_brings_no_members() -> Iterator[None]:
    def begin_at(self: History, index: int, configuration: Configuration) -> None:
        usual(self, index, self.in_force if self.in_force.members else configuration)

    usual = History.begin_at
    with mock.patch.object(History, "begin_at", begin_at):
        yield


@contextmanager
def a_leader_counts_itself_while_it_removes_itself() -> Iterator[None]:
    def count(self: Any) -> None:
        usual(self)
        seats = self._SyncObj__otherNodes
        self._SyncObj__otherNodes = {seat for seat in seats if seat.id}

    usual = Engine._count_by_members
    with mock.patch.object(Engine, "_count_by_members", count):
        yield
