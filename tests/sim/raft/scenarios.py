"""Single rules, acted out with one real engine and its real journal; the peers are played by hand.

Each raises `Broken` if its rule does not hold. They are here for what random histories reach too
rarely: pre-vote makes two candidates in one term, or two leaders in a row that die early, rare.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orca_common.env import Env
from orca_master.errors import Conflict
from orca_master.state.raft.codec import (
    NO_OP_COMMAND,
    Append,
    AppendReply,
    Message,
    PreVote,
    PreVoteReply,
    RequestVote,
    VoteReply,
    encode_batch,
    pack_entries,
)
from orca_master.state.raft.elections import Timing
from orca_master.state.raft.journal import Journal
from orca_master.state.raft.members import (
    Configuration,
    Member,
    command_of,
    with_voter,
    without,
)
from orca_master.state.raft.meters import Meters
from orca_master.state.raft.protocol import Engine
from sim.disk import SimDisk
from sim.env import InlineThreads, SimRandom

FOLDER = "/raft"


class Broken(AssertionError):
    """A rule of the protocol does not hold."""


def of_members(*voters: str, learners: tuple[str, ...] = ()) -> Configuration:
    names = [*voters, *learners]
    return Configuration(members=tuple(Member(n, f"{n}:1", n in voters) for n in names))


class HandClock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds


class Played:
    """The master `m1`. Start another on the same disk to see what a restart has left."""

    def __init__(
        self,
        disk: SimDisk,
        *,
        peers: tuple[str, ...] = ("m2", "m3"),
        learners: tuple[str, ...] = (),
    ) -> None:
        configuration = of_members("m1", *peers, learners=learners)
        self.clock = HandClock()
        self.applied: list[bytes] = []
        env = Env(self.clock, SimRandom(1), disk, InlineThreads())
        disk.make_folders(FOLDER)
        self.journal = Journal(env, FOLDER, segment_bytes=1 << 20)
        if self.journal.holds_records:
            self.journal.replay()
        else:
            self.journal.create()
            self.journal.reset(1, 0, configuration)
        self.journal.begin_after(1, 0, configuration, keep=0)
        self.engine = Engine(
            env,
            "m1",
            self.journal,
            self,
            applied_index=1,
            timing=Timing(),
            max_append_bytes=1 << 20,
            meters=Meters(),
        )
        for peer in (*peers, *learners):
            self.engine.connected(peer)

    def append_waiting(self) -> None:
        """Nobody waits."""

    def members_changed(self, configuration: Configuration) -> None:
        self.configuration = configuration

    def apply(self, command: bytes, index: int, term: int) -> None:
        self.applied.append(command)

    def turn(self) -> list[tuple[str, Message]]:
        self.engine.tick()
        self.journal.write()
        messages = self.engine.take_appends()
        self.journal.sync()
        return [*messages, *self.engine.take_promises()]

    def hear(self, peer: str, message: Message) -> list[Message]:
        """Give it a message; returns what this peer is sent in that turn."""
        self.engine.receive(peer, message)
        return [sent for to, sent in self.turn() if to == peer]

    def stand(self) -> None:
        """Until it is a candidate."""
        self.clock.seconds += 2.0
        requests = [(to, m) for to, m in self.turn() if isinstance(m, PreVote)]
        for peer, request in requests:
            self.hear(peer, PreVoteReply(request.term, request.attempt, is_granted=True))

    def lead(self) -> int:
        """Until it leads; returns its term."""
        self.stand()
        term = self.engine.term
        self.hear("m2", VoteReply(term, is_granted=True))
        return term

    def lead_settled(self) -> int:
        """Until it leads and its own first entry is committed; returns its term."""
        term = self.lead()
        self.acknowledge("m2", "m3")
        return term

    def acknowledge(self, *peers: str) -> None:
        """These have the whole log."""
        for peer in peers:
            last = self.journal.last_index
            reply = AppendReply(self.engine.term, 1 << 20, 0, matches=True, next_index=last + 1)
            self.hear(peer, reply)

    def change(self, edit: Callable[[Configuration], Configuration]) -> int:
        """As the leader; returns the index of the entry, which its peers have been sent."""
        index = self.engine.change_members(edit)
        self.turn()
        return index


def _grants(messages: list[Message]) -> bool:
    return any(isinstance(m, VoteReply) and m.is_granted for m in messages)


def a_vote_survives_a_power_loss() -> None:
    disk = SimDisk()
    voter = Played(disk)
    if not _grants(voter.hear("m2", RequestVote(5, 1, 0, is_transfer=False))):
        raise Broken("nobody votes at all")
    disk.kill()
    disk._become({path: file.durable for path, file in disk._durable_names.items()})
    again = Played(disk)
    if _grants(again.hear("m3", RequestVote(5, 1, 0, is_transfer=False))):
        raise Broken("two votes in one term")
    if not _grants(again.hear("m2", RequestVote(5, 1, 0, is_transfer=False))):
        raise Broken("a candidate that asks again is not told again")


def an_older_terms_entry_is_not_committed_by_counting() -> None:
    """Figure 8: it may still be replaced, until an entry of the leader's own term follows it."""
    leader = Played(SimDisk())
    entry = (encode_batch([b"old"]), 2, 1)
    old = Append(
        1, 1, 0, previous_index=1, previous_term=0, commit=1, entries=pack_entries([entry])
    )
    leader.hear("m2", old)
    term = leader.lead()
    leader.hear("m2", AppendReply(term, 1, 0, matches=True, next_index=3))
    if leader.engine.commit_index != 1 or leader.applied:
        raise Broken("an entry of an older term was committed by counting")
    leader.hear("m2", AppendReply(term, 2, 0, matches=True, next_index=4))
    if leader.applied != [encode_batch([b"old"]), NO_OP_COMMAND]:
        raise Broken("the entry was not committed together with the leader's own")


def an_answer_of_another_term_is_ignored() -> None:
    leader = Played(SimDisk())
    term = leader.lead()
    leader.hear("m3", AppendReply(term - 1, 1, 0, matches=True, next_index=3))
    if leader.engine.commit_index != 1:
        raise Broken("an answer to another term's message was counted")
    leader.hear("m3", AppendReply(term, 1, 0, matches=True, next_index=3))
    if leader.engine.commit_index != 2:
        raise Broken("an answer of this term was not counted")


def a_repeated_vote_counts_once() -> None:
    candidate = Played(SimDisk(), peers=("m2", "m3", "m4", "m5"))
    candidate.stand()
    term = candidate.engine.term
    for _ in range(3):
        candidate.hear("m2", VoteReply(term, is_granted=True))
    if candidate.engine.leads:
        raise Broken("one master's vote, told three times, made a majority of five")
    candidate.hear("m3", VoteReply(term, is_granted=True))
    if not candidate.engine.leads:
        raise Broken("two votes and its own are a majority of five")


def entries_that_agree_stay_when_an_old_message_comes_late() -> None:
    follower = Played(SimDisk())
    entries = [(encode_batch([str(n).encode()]), n, 1) for n in (2, 3, 4)]
    first = Append(1, 1, 0, 1, 0, 1, pack_entries(entries[:1]))
    follower.hear("m2", first)
    follower.hear("m2", Append(1, 2, 0, 2, 1, 1, pack_entries(entries[1:])))
    answer = follower.hear("m2", first)[0]
    if follower.journal.last_index != 4:
        raise Broken("entries that agree with the leader's were removed")
    if not isinstance(answer, AppendReply) or answer.next_index != 3:
        raise Broken("more was acknowledged than was compared")


def a_silent_follower_is_asked_again_and_not_sent_a_snapshot() -> None:
    """Its log is unknown, and ours holds everything: there is nothing that only a snapshot has."""
    leader = Played(SimDisk())
    term = leader.lead()
    asked = 0
    for number in range(1, 40):
        leader.clock.seconds += 0.1
        leader.engine.receive("m2", AppendReply(term, number, 0, matches=True, next_index=3))
        asked += sum(
            isinstance(m, Append) and bool(m.entries) for to, m in leader.turn() if to == "m3"
        )
        if leader.engine.lagging():
            raise Broken("a follower that only says nothing was taken for one that lags")
    if not 2 <= asked <= 5:
        raise Broken(f"it was asked {asked} times in 4 s")


def a_promoted_master_counts_from_the_moment_its_promotion_is_appended() -> None:
    leader = Played(SimDisk(), learners=("m4",))
    leader.lead_settled()
    index = leader.change(lambda now: with_voter(now, "m4"))
    leader.acknowledge("m2")
    if leader.engine.commit_index >= index:
        raise Broken("two of four voters have committed that they are four")
    leader.acknowledge("m4")
    if leader.engine.commit_index < index:
        raise Broken("three of four voters have committed nothing")


def a_configuration_that_is_cut_off_is_in_force_no_longer() -> None:
    follower = Played(SimDisk())
    before = follower.engine.configuration
    entry = (command_of(of_members("m1", "m2", "m3", "m4")), 2, 1)
    follower.hear("m2", Append(1, 1, 0, 1, 0, 1, pack_entries([entry])))
    if follower.configuration.voters != {"m1", "m2", "m3", "m4"}:
        raise Broken("a follower does not go by a configuration that it has")
    follower.hear("m3", Append(2, 1, 0, 1, 0, 1, pack_entries([(NO_OP_COMMAND, 2, 2)])))
    if not follower.engine.configuration == follower.configuration == before:
        raise Broken("a configuration that no log has is in force")


def a_learner_commits_nothing() -> None:
    leader = Played(SimDisk(), learners=("m4", "m5"))
    leader.lead()
    leader.acknowledge("m4", "m5")
    if leader.engine.commit_index > 1:
        raise Broken("learners have committed an entry")
    leader.acknowledge("m2")
    if leader.engine.commit_index == 1:
        raise Broken("two of three voters have committed nothing")


def a_new_leader_changes_no_members_before_it_has_committed_something() -> None:
    """Ongaro's correction of 2015: else two leaders may each commit with a majority of their own."""
    leader = Played(SimDisk(), learners=("m4",))
    leader.lead()
    with _refused("has only begun to lead"):
        leader.change(lambda now: with_voter(now, "m4"))
    leader.acknowledge("m2")
    leader.change(lambda now: with_voter(now, "m4"))


def members_change_one_at_a_time() -> None:
    leader = Played(SimDisk(), learners=("m4", "m5"))
    leader.lead_settled()
    leader.change(lambda now: with_voter(now, "m4"))
    with _refused("under way"):
        leader.change(lambda now: with_voter(now, "m5"))
    leader.acknowledge("m2", "m4")
    leader.change(lambda now: with_voter(now, "m5"))


def a_configuration_in_the_log_survives_a_restart() -> None:
    disk = SimDisk()
    leader = Played(disk, learners=("m4",))
    leader.lead_settled()
    leader.change(lambda now: with_voter(now, "m4"))
    disk.kill()
    if Played(disk, learners=("m4",)).engine.configuration.voters != {"m1", "m2", "m3", "m4"}:
        raise Broken("a configuration that is not committed was forgotten at a start")


def a_leader_that_removes_itself_does_not_count_itself() -> None:
    leader = Played(SimDisk())
    leader.lead_settled()
    index = leader.change(lambda now: without(now, "m1", by="m1"))
    leader.acknowledge("m2")
    if leader.engine.commit_index >= index:
        raise Broken("one of two voters has committed")
    if leader.engine.removed_by is not None:
        raise Broken("it goes before its removal is committed")
    leader.acknowledge("m3")
    if leader.engine.removed_by != "m1":
        raise Broken("both voters have committed nothing")


@contextmanager
def _refused(words: str) -> Iterator[None]:
    try:
        yield
    except Conflict as conflict:
        if words not in conflict.message:
            raise Broken(f"refused for another reason: {conflict.message}") from conflict
    else:
        raise Broken(f"not refused with {words!r}")


ALL: list[Callable[[], None]] = [
    a_vote_survives_a_power_loss,
    an_older_terms_entry_is_not_committed_by_counting,
    an_answer_of_another_term_is_ignored,
    a_repeated_vote_counts_once,
    entries_that_agree_stay_when_an_old_message_comes_late,
    a_silent_follower_is_asked_again_and_not_sent_a_snapshot,
    a_promoted_master_counts_from_the_moment_its_promotion_is_appended,
    a_configuration_that_is_cut_off_is_in_force_no_longer,
    a_learner_commits_nothing,
    a_new_leader_changes_no_members_before_it_has_committed_something,
    members_change_one_at_a_time,
    a_configuration_in_the_log_survives_a_restart,
    a_leader_that_removes_itself_does_not_count_itself,
]
