"""What a leader knows of each follower, and what it sends next: entries in a window, or a snapshot.

A follower is *probed* (one message at a time, until the place is found where its log agrees with
ours) and then *streamed to* (entries leave before earlier ones are answered, up to a window). Every
message has a number that its answer repeats, so an answer given before a probe began cannot restart
it: without that, each lost message made a storm. Progress goes only forward: an index that a
follower once had is never sent again in this term.

Learners are followers that do not count. One that was removed is fed a little longer, and again when
it comes back without having heard of it, so that it learns that it may go.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from math import inf

from orca_common.env import Env
from orca_master.state.raft.codec import (
    Append,
    AppendReply,
    Message,
    Piece,
    PieceReply,
    pack_entries,
)
from orca_master.state.raft.journal import Journal
from orca_master.state.raft.members import NOBODY, Configuration
from orca_master.state.raft.standing import Progress
from orca_master.state.solo.snapshots import Snapshot

WINDOW_MESSAGES = 64
WINDOW_BYTES = 2 << 20
"""Also what is encrypted for one follower at a time, while nothing else happens."""
PIECE_BYTES = 256 << 10
WINDOW_PIECES = 4
ANSWER_SECONDS = 1.0
"""A follower that has not answered for so long is probed again; a lost message may be why."""
PIECE_SECONDS = 5.0
INSTALL_SECONDS = 60.0
"""How long a whole snapshot may take to be made durable and restored before it is sent again."""


FAREWELL_SECONDS = 5.0
"""How long a removed member that makes no progress is fed."""


class Stream:
    """A snapshot on its way to one follower."""

    def __init__(self, snapshot: Snapshot, now: float) -> None:
        self.index = snapshot.index
        self.index_term = snapshot.term
        self._parts = list(snapshot.parts)
        self.restart(now)

    def restart(self, now: float) -> None:
        self._part = self._offset = 0
        self.sent = self.answered = 0
        self._is_refused = False
        self.moved_at = now

    @property
    def is_sent(self) -> bool:
        return self._part == len(self._parts)

    def answer(self, wanted: int, now: float) -> None:
        if wanted == 0:  # it had no space for the whole of it
            self._is_refused = True
            self.moved_at = now
        elif wanted > self.answered:
            self.answered = wanted
            self.moved_at = now

    def is_stuck(self, now: float) -> bool:
        is_installing = self.is_sent and self.answered == self.sent and not self._is_refused
        patience = INSTALL_SECONDS if is_installing else PIECE_SECONDS
        return now - self.moved_at > patience

    def next_piece(self, *, term: int, round: int) -> Piece | None:
        if self.is_sent or self.sent - self.answered >= WINDOW_PIECES:
            return None
        part = self._parts[self._part]
        data = part[self._offset : self._offset + PIECE_BYTES]
        self._offset += len(data)
        ends_part = self._offset >= len(part)
        if ends_part:
            self._part, self._offset = self._part + 1, 0
        self.sent += 1
        return Piece(
            term=term,
            round=round,
            index=self.index,
            index_term=self.index_term,
            number=self.sent - 1,
            data=data,
            ends_part=ends_part,
            is_last=self.is_sent,
        )


@dataclass(slots=True)
class Follower:
    next_index: int
    heard_at: float
    is_connected: bool
    match_index: int = 0
    is_probing: bool = True
    probed_from: int = 0
    """Answers to messages before this number say nothing about the probe."""
    probed_at: float = float("-inf")
    sent_number: int = 0
    sent_at: float = float("-inf")
    told_round: int = 0
    confirmed_round: int = 0
    unanswered: deque[tuple[int, int, int]] = field(default_factory=deque)
    """(number, bytes, index of the first entry) of each message with entries."""
    unanswered_bytes: int = 0
    stream: Stream | None = None
    leaves_at: float | None = None
    """When it is fed no longer, if it is no member any more."""

    def probe(self, next_index: int) -> None:
        self.is_probing = True
        self.next_index = next_index
        self.probed_from = self.sent_number + 1
        self.unanswered.clear()
        self.unanswered_bytes = 0

    def answered(self, number: int) -> None:
        while self.unanswered and self.unanswered[0][0] <= number:
            self.unanswered_bytes -= self.unanswered.popleft()[1]

    @property
    def has_room(self) -> bool:
        if self.is_probing:
            return not self.unanswered
        return len(self.unanswered) < WINDOW_MESSAGES and self.unanswered_bytes < WINDOW_BYTES


class Followers:
    """One leader's view in one term; `begin` starts the next."""

    def __init__(
        self,
        env: Env,
        node: str,
        journal: Journal,
        *,
        heartbeat_seconds: float,
        max_append_bytes: int,
    ) -> None:
        self._env = env
        self._node = node
        self._journal = journal
        self._heartbeat_seconds = heartbeat_seconds
        self._max_append_bytes = max_append_bytes
        self._followers: dict[str, Follower] = {}
        self._members = NOBODY
        self._term = 0
        self.round = 0

    def begin(self, term: int, members: Configuration, connected: Set[str]) -> None:
        self._term = term
        self.round = 0
        self._followers = {}
        self.go_by(members, connected)
        for peer in sorted(connected):
            self.tell_if_removed(peer)

    def go_by(self, members: Configuration, connected: Set[str]) -> None:
        """These are the members from now on."""
        self._members = members
        others = members.ids - {self._node}
        for peer in sorted(others):
            follower = self._followers.get(peer)
            if follower is not None:
                follower.leaves_at = None
            else:
                self._followers[peer] = self._new(is_connected=peer in connected)
        for peer, follower in self._followers.items():
            if peer not in others and follower.leaves_at is None:
                follower.leaves_at = self._env.monotonic() + FAREWELL_SECONDS

    def _new(self, *, is_connected: bool) -> Follower:
        return Follower(self._journal.last_index + 1, self._env.monotonic(), is_connected)

    def connected(self, peer: str) -> None:
        self.tell_if_removed(peer)
        follower = self._followers.get(peer)
        if follower is None:
            return
        follower.is_connected = True
        follower.sent_at = float("-inf")
        follower.told_round = 0
        follower.probe(follower.match_index + 1 if follower.match_index else follower.next_index)
        if follower.stream is not None:
            follower.stream.restart(self._env.monotonic())

    def tell_if_removed(self, peer: str) -> None:
        """Feed a connected one that is no member any more, until it has heard of that."""
        if peer not in self._followers and self._members.removed_by(peer) is not None:
            follower = self._followers[peer] = self._new(is_connected=True)
            follower.leaves_at = self._env.monotonic() + FAREWELL_SECONDS

    def disconnected(self, peer: str) -> None:
        follower = self._followers.get(peer)
        if follower is not None:
            follower.is_connected = False
            if follower.leaves_at is not None:
                del self._followers[peer]

    # What they answer.

    def append_answered(self, peer: str, reply: AppendReply) -> None:
        """Take an answer of this term."""
        follower = self._heard(peer, reply.round)
        if follower is None:
            return
        follower.answered(reply.number)
        if reply.matches:
            self._matched(follower, reply.next_index - 1)
            follower.next_index = max(follower.next_index, reply.next_index)
            if reply.number >= follower.probed_from:
                follower.is_probing = False
            if follower.next_index > self._journal.first_index:
                follower.stream = None
        elif follower.stream is None and reply.number >= follower.probed_from:
            hint = min(reply.next_index, self._journal.last_index + 1)
            follower.probe(max(follower.match_index + 1, hint))

    def piece_answered(self, peer: str, reply: PieceReply) -> None:
        """As `append_answered`."""
        follower = self._heard(peer, reply.round)
        if follower is None:
            return
        stream = follower.stream
        if reply.is_installed:
            self._matched(follower, reply.index)
            if stream is not None and reply.index >= stream.index:
                follower.stream = None
                follower.probe(follower.match_index + 1)
        elif stream is not None and reply.index == stream.index:
            stream.answer(reply.wanted, self._env.monotonic())
            self._postpone_farewell(follower)

    def _heard(self, peer: str, round: int) -> Follower | None:
        follower = self._followers.get(peer)
        if follower is not None:
            follower.heard_at = self._env.monotonic()
            follower.confirmed_round = max(follower.confirmed_round, round)
        return follower

    def _matched(self, follower: Follower, index: int) -> None:
        if index > follower.match_index:
            follower.match_index = index
            self._postpone_farewell(follower)

    def _postpone_farewell(self, follower: Follower) -> None:
        if follower.leaves_at is not None:
            follower.leaves_at = self._env.monotonic() + FAREWELL_SECONDS

    # What is known.

    def heard_from_quorum_at(self) -> float:
        """When enough voters had answered that, with us if we are one, they were a majority."""
        return self._reached_by_quorum({p: f.heard_at for p, f in self._followers.items()})

    def confirmed_round(self) -> float:
        """The last round in which a majority took us for the leader (thesis 6.4)."""
        return self._reached_by_quorum({p: f.confirmed_round for p, f in self._followers.items()})

    def matched_by_quorum(self) -> float:
        """The last index that a majority surely has, with us if we are a voter."""
        return self._reached_by_quorum({p: f.match_index for p, f in self._followers.items()})

    @property
    def have_all_been_sent(self) -> bool:
        """Whether there is nothing to send to anybody but heartbeats."""
        last = self._journal.last_index
        return all(
            f.next_index > last and not f.is_probing and f.stream is None
            for f in self._followers.values()
            if f.is_connected
        )

    def _reached_by_quorum(self, values: Mapping[str, float]) -> float:
        voters = self._members.voters
        reached = sorted((values.get(v, -inf) for v in voters if v != self._node), reverse=True)
        reached = [inf, *reached] if self._node in voters else reached
        return reached[len(voters) // 2]

    def answers_of(self, peer: str) -> tuple[int, float]:
        """(the last index that it surely has, when it last answered)."""
        follower = self._followers.get(peer)
        return (0, -inf) if follower is None else (follower.match_index, follower.heard_at)

    def is_majority_close(self, members: Configuration, *, within: int) -> bool:
        """Whether enough of these voters answer and lack at most so many entries."""
        near = [v for v in members.voters if v == self._node or self.is_close(v, within=within)]
        return len(near) > len(members.voters) // 2

    def is_close(self, peer: str, *, within: int) -> bool:
        """Whether it answers, and lacks at most so many entries."""
        follower = self._followers.get(peer)
        return (
            follower is not None
            and follower.is_connected
            and follower.match_index >= self._journal.last_index - within
            and follower.match_index >= self._journal.first_index
            and self._env.monotonic() - follower.heard_at < ANSWER_SECONDS
        )

    def progress(self) -> tuple[Progress, ...]:
        """Of every member, this master among them."""
        now = self._env.monotonic()
        found: list[Progress] = []
        for member in self._members.members:
            place = (member.id, member.address, member.is_voter)
            if member.id == self._node:
                found.append(Progress(*place, self._journal.last_index, True, 0.0, False))
            elif (f := self._followers.get(member.id)) is not None:
                heard = now - f.heard_at
                found.append(
                    Progress(*place, f.match_index, f.is_connected, heard, f.stream is not None)
                )
        return tuple(found)

    def most_caught_up(self) -> tuple[str, int] | None:
        """(peer, match index) of the connected voter with the longest log."""
        voters = self._members.voters
        connected = [
            (f.match_index, peer)
            for peer, f in self._followers.items()
            if f.is_connected and peer in voters
        ]
        return max(connected)[::-1] if connected else None

    def lagging(self) -> list[str]:
        """Who needs a snapshot, and is being sent none."""
        first = self._journal.first_index
        return [
            peer
            for peer, f in self._followers.items()
            if f.is_connected and f.stream is None and f.next_index <= first
        ]

    def offer(self, peer: str, snapshot: Snapshot) -> None:
        """To one of `lagging`."""
        self._followers[peer].stream = Stream(snapshot, self._env.monotonic())

    @property
    def are_streamed_to(self) -> bool:
        return any(f.stream is not None for f in self._followers.values())

    # What they are sent.

    def due(self, commit: int) -> list[tuple[str, Message]]:
        """Everything that may leave now; heartbeats among it."""
        messages: list[tuple[str, Message]] = []
        now = self._env.monotonic()
        for peer, follower in list(self._followers.items()):
            if follower.leaves_at is not None and follower.leaves_at < now:
                del self._followers[peer]
            elif follower.is_connected:
                messages.extend((peer, m) for m in self._for(follower, commit))
        return messages

    def next_heartbeat_at(self) -> float:
        sent = [f.sent_at for f in self._followers.values() if f.is_connected]
        return min(sent, default=self._env.monotonic()) + self._heartbeat_seconds

    def _for(self, follower: Follower, commit: int) -> Iterator[Message]:
        now = self._env.monotonic()
        waited_from = max(follower.heard_at, follower.probed_at)
        if follower.unanswered and now - waited_from > ANSWER_SECONDS:
            follower.probe(follower.unanswered[0][2])
            follower.probed_at = now
        if follower.stream is not None or follower.next_index <= self._journal.first_index:
            yield from self._pieces_for(follower, commit, now)
            return
        is_due = (
            now - follower.sent_at >= self._heartbeat_seconds or follower.told_round < self.round
        )
        while follower.has_room and follower.next_index <= self._journal.last_index:
            yield self._append_for(follower, commit, now)
            is_due = False
        if is_due:
            yield self._heartbeat_for(follower, commit, now, at=follower.next_index - 1)

    def _pieces_for(self, follower: Follower, commit: int, now: float) -> Iterator[Message]:
        stream = follower.stream
        if stream is not None:
            if stream.is_stuck(now):
                stream.restart(now)
            while (piece := stream.next_piece(term=self._term, round=self.round)) is not None:
                yield piece
        if now - follower.sent_at >= self._heartbeat_seconds or follower.told_round < self.round:
            yield self._heartbeat_for(follower, commit, now, at=self._journal.first_index)

    def _append_for(self, follower: Follower, commit: int, now: float) -> Append:
        entries = self._journal.entries_from(follower.next_index, max_bytes=self._max_append_bytes)
        packed = pack_entries(entries)
        previous = follower.next_index - 1
        follower.next_index = entries[-1][1] + 1
        follower.unanswered.append((follower.sent_number + 1, len(packed), entries[0][1]))
        follower.unanswered_bytes += len(packed)
        return self._message(follower, now, previous=previous, commit=commit, packed=packed)

    def _heartbeat_for(self, follower: Follower, commit: int, now: float, *, at: int) -> Append:
        return self._message(follower, now, previous=at, commit=commit, packed=b"")

    def _message(
        self, follower: Follower, now: float, *, previous: int, commit: int, packed: bytes
    ) -> Append:
        follower.sent_number += 1
        follower.sent_at = now
        follower.told_round = self.round
        return Append(
            term=self._term,
            number=follower.sent_number,
            round=self.round,
            previous_index=previous,
            previous_term=self._journal.term_at(previous) or 0,
            commit=commit,
            entries=packed,
        )
