"""Much to do at once is done in slices, so that the event loop turns in between."""

from orca_master.state.raft.codec import (
    Append,
    AppendReply,
    Message,
    encode_batch,
    pack_entries,
)
from orca_master.state.raft.followers import WINDOW_BYTES
from orca_master.state.raft.protocol import APPLYING_SECONDS
from sim.disk import SimDisk
from sim.raft.scenarios import Played

ENTRY_BYTES = 1 << 20
LARGE = encode_batch([bytes(ENTRY_BYTES - 5)])


class SlowMachine(Played):
    """Applies five entries in the time that may be taken at once."""

    def apply(self, command: bytes, index: int, term: int) -> None:
        super().apply(command, index, term)
        self.clock.seconds += APPLYING_SECONDS / 5


def test_who_catches_up_applies_for_a_while_and_goes_on_in_the_next_turn() -> None:
    follower = SlowMachine(SimDisk())
    entries = [(encode_batch([b"%d" % n]), n, 1) for n in range(2, 42)]
    follower.hear(
        "m2",
        Append(
            1, 1, 0, previous_index=1, previous_term=0, commit=41, entries=pack_entries(entries)
        ),
    )
    turns = 0
    while follower.engine.has_more_to_do:
        before = len(follower.applied)
        follower.engine.apply_committed()
        assert 0 < len(follower.applied) - before <= 7
        turns += 1
    assert follower.applied == [command for command, _, _ in entries]
    assert turns >= 6


def test_a_follower_answers_before_it_applies() -> None:
    follower = Played(SimDisk())
    entry = (encode_batch([b"one"]), 2, 1)
    answers = follower.hear(
        "m2",
        Append(1, 1, 0, previous_index=1, previous_term=0, commit=2, entries=pack_entries([entry])),
    )
    assert answers == [AppendReply(1, 1, 0, matches=True, next_index=3)]
    assert follower.applied == []
    follower.engine.apply_committed()
    assert follower.applied == [entry[0]]


def test_a_follower_that_is_behind_is_sent_a_window_at_a_time_and_all_of_it_in_the_end() -> None:
    leader = Played(SimDisk())
    term = leader.lead_settled()
    for _ in range(12):
        leader.engine.append(LARGE)
    sent: list[Append] = []
    messages: list[Message] = [m for to, m in leader.turn() if to == "m2"]
    while batch := [m for m in messages if isinstance(m, Append) and m.entries]:
        assert sum(len(m.entries) for m in batch) <= WINDOW_BYTES + ENTRY_BYTES + 100
        sent += batch
        last = batch[-1]
        count = sum(len(m.entries) // ENTRY_BYTES for m in batch)
        reply = AppendReply(
            term, last.number, 0, matches=True, next_index=batch[0].previous_index + 1 + count
        )
        messages = leader.hear("m2", reply)
    assert len(sent) == 12
    assert leader.engine.waits_for_nothing is False  # m3 has not answered for any of it


def test_a_late_answer_changes_nothing_and_a_first_one_does() -> None:
    leader = Played(SimDisk())
    leader.lead_settled()
    assert leader.engine.waits_for_nothing
    index = leader.engine.append(encode_batch([b"one"]))
    leader.turn()
    reply = AppendReply(leader.engine.term, 1 << 20, 0, matches=True, next_index=index + 1)
    leader.engine.receive("m2", reply)
    assert not leader.engine.waits_for_nothing
    leader.turn()
    leader.engine.receive("m3", reply)
    assert leader.engine.waits_for_nothing
    leader.engine.disconnected("m3")
    leader.engine.connected("m3")
    assert not leader.engine.waits_for_nothing  # it is to be found out what m3 has
