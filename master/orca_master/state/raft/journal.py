"""The library's journal over our own files: entries, truncations, term and vote, durable in order.

Every change is a record behind the last one; records gather in memory, `write` hands them to the
system (and can still be taken back, when the disk is full) and `sync` makes them durable. Nothing
may leave this master that promises a record before `sync` has returned: that order is the driver's.

    E index, term, command   an entry is appended       C index          this entry and later ones go
    V term, vote             the term, and whom we vote for in it
    A index, term            a snapshot that arrives may be published from now on
    B index, term            the log begins anew, behind the snapshot of this entry

Each file begins with a V, so that whole old files can go. What damage looks like is in `segments`.
"""

import struct
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

from pysyncobj.journal import Journal as LibraryJournal

from orca_common.env import Env
from orca_master.state.log import DamagedLog
from orca_master.state.raft.codec import NO_OP_COMMAND, Entry
from orca_master.state.raft.members import NOBODY, Configuration, History, configuration_in
from orca_master.state.solo import segments
from orca_master.state.solo.segments import WHAT_TO_DO, Segments

_place = struct.Struct("<QQ")
_number = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Mark:
    """A point to which `take_back` can return."""

    pending: int
    entries: int


class Journal(LibraryJournal):  # type: ignore[misc]
    """`create` or `replay`, then `begin_after`; the library reads and changes it from then on.

    The first entry in memory is where the log begins: its index and term are needed, its command is
    not. Not for two threads at once, but `sync` and `drop_files` may run in another one. `members`
    follows the entries: whatever adds or removes some changes what is in force.
    """

    def __init__(self, env: Env, folder: str, *, segment_bytes: int) -> None:
        self._folder = folder
        self._segments = Segments(env, folder, segment_bytes=segment_bytes)
        self._entries: list[Entry] = []
        self.members = History()
        self._base: tuple[int, int | None] | None = None
        self._arriving: tuple[int, int] | None = None
        self._term = 0
        self._vote: str | None = None
        self._written_vote: tuple[int, str | None] = (0, None)
        self._pending: list[bytes] = []
        self._is_durable = True
        self._sequence = 0
        self._last_index_in: dict[int, int] = {}
        """The first sequence number of each file → the last log index in it."""

    # Starting.

    @property
    def holds_records(self) -> bool:
        return self._segments.hold_records()

    def create(self) -> None:
        """An empty log. Nothing is in it before the first `write`: the folder may be named first."""
        self._segments.create()
        self.setCurrentTerm(0, None)

    def replay(self) -> None:
        """Read everything. Raises DamagedLog."""
        firsts = self._segments.firsts
        after = firsts[0] - 1 if firsts else 0
        self._sequence = after
        last_in: dict[int, int] = {}
        for record in self._segments.replay(after):
            self._sequence = record.index
            self._replay_record(record.payload)
            if self._entries:
                place = bisect_right(firsts, record.index) - 1
                last_in[place] = max(last_in.get(place, 0), self._entries[-1][1])
        self._last_index_in = {
            first: last_in.get(place, 0) for place, first in enumerate(self._segments.firsts)
        }

    def covers(self, index: int, term: int) -> bool:
        """Whether the entries after this snapshot are here, as far as the log goes."""
        try:
            self._check_reaches(index, term)
        except DamagedLog:
            return False
        return True

    def begin_after(
        self, index: int, term: int, configuration: Configuration = NOBODY, *, keep: int
    ) -> None:
        """Stand behind the snapshot of this entry (0: there is none). Raises DamagedLog.

        Entries after it stay if the log has this very entry (section 7 of the paper), and up to
        `keep` entries before it, for followers that lag. `configuration` is the snapshot's.
        """
        self._stand_behind(index, term, configuration, keep=keep)
        self.members = History()
        self.members.begin_at(index, configuration)
        for command, at, _ in self._entries:
            if at > index:
                self._note_members(command, at)

    def _stand_behind(
        self, index: int, term: int, configuration: Configuration, *, keep: int
    ) -> None:
        if not index:
            if self._entries and self._entries[0][1] != 1:
                raise self._damaged(f"entries 1 to {self._entries[0][1] - 1} are missing")
            if self._base is not None and self._base[0] > 0:
                raise self._damaged("it goes on from a snapshot that is missing")
            return
        self._check_reaches(index, term)
        if self._entries and self.term_at(index) == term:
            first = self._entries[0][1]
            del self._entries[: max(0, index - keep - first)]
        elif self._entries and self._entries[0][1] == index + 1 and self._follows(index, term):
            self._entries.insert(0, (NO_OP_COMMAND, index, term))
        else:
            self.reset(index, term, configuration)

    def _note_members(self, command: bytes, index: int) -> None:
        try:
            configuration = configuration_in(command)
        except ValueError as error:
            raise self._damaged(f"entry {index}: {error}") from error
        if configuration is not None:
            self.members.add(index, configuration)

    def _follows(self, index: int, term: int) -> bool:
        known = self._base[1] if self._base is not None and self._base[0] == index else None
        return known == term if known is not None else self._entries[0][2] >= term

    def _check_reaches(self, index: int, term: int) -> None:
        begins = self._entries[0][1] if self._entries else None
        if begins is None and self._base is not None:
            begins = self._base[0] + 1
        if begins is not None and begins > index + 1:
            raise self._damaged(f"entries {index + 1} to {begins - 1} are missing")
        last = self._entries[-1][1] if self._entries else (begins or 1) - 1
        if last < index and self._arriving != (index, term):
            raise self._damaged(f"it ends with entry {last}; a snapshot holds {index}")

    def _replay_record(self, payload: bytes) -> None:
        kind, body = payload[:1], payload[1:]
        if kind == b"E":
            index, term = _place.unpack_from(body)
            self._check_next(index, term)
            self._entries.append((body[_place.size :], index, term))
        elif kind == b"C":
            (index,) = _number.unpack(body)
            self._cut(index)
        elif kind == b"V":
            (self._term,) = _number.unpack_from(body)
            self._vote = body[_number.size :].decode() or None
            self._written_vote = self._term, self._vote
        elif kind == b"A":
            self._arriving = _place.unpack(body)
        elif kind == b"B":
            self._entries.clear()
            self._base = _place.unpack(body)
        else:
            raise self._damaged(f"step {self._sequence} is of a kind that this version lacks")

    def _check_next(self, index: int, term: int) -> None:
        if self._entries:
            expected, least = self._entries[-1][1] + 1, self._entries[-1][2]
        elif self._base is not None:
            expected, least = self._base[0] + 1, self._base[1] or 0
        else:
            expected, least = index, 0
        if index != expected or term < least:
            raise self._damaged(f"entry {index} of term {term} follows {expected - 1} of {least}")

    def _cut(self, index: int) -> None:
        if self._entries and index > self._entries[0][1]:
            del self._entries[index - self._entries[0][1] :]
        elif self._base is None or self._base[0] >= index:
            self._entries.clear()
            self._base = (index - 1, None)
        else:
            self._entries.clear()

    # Making durable.

    @property
    def is_dirty(self) -> bool:
        """Whether there are records that `write` has not taken."""
        return bool(self._pending)

    @property
    def is_durable(self) -> bool:
        """Whether there is nothing for `sync` to do."""
        return self._is_durable

    def mark(self) -> Mark:
        return Mark(len(self._pending), len(self._entries))

    def take_back(self, mark: Mark) -> None:
        """Forget what was appended since the mark. Nothing may have been written or told since."""
        del self._pending[mark.pending :]
        del self._entries[mark.entries :]
        self.members.cut_from(self.last_index + 1)

    def write(self) -> None:
        """Hand the records to the system: all, or (NoSpace) none, and then they stay pending."""
        if not self._pending:
            return
        self._is_durable = False
        records = self._numbered(self._pending)
        if self._segments.is_full_for(records):
            # As it was before these records: each of them is worth something only after the last.
            records = self._numbered([_vote_record(*self._written_vote), *self._pending])
        self._segments.write(records)
        self._written_vote = self._term, self._vote
        self._sequence = records[-1].index
        current = self._segments.firsts[-1]
        last = self._entries[-1][1] if self._entries else 0
        self._last_index_in[current] = max(self._last_index_in.get(current, 0), last)
        self._pending.clear()

    def sync(self) -> None:
        """Make durable what was written. LogFailed: nobody knows; stop."""
        self._segments.sync()
        self._is_durable = True

    def drop_files(self, needless: int) -> None:
        """Remove files in which no entry is newer than this one. Blocks."""
        firsts = self._segments.firsts
        keep = 0
        while keep < len(firsts) - 1 and self._last_index_in.get(firsts[keep], 0) <= needless:
            keep += 1
        if keep:
            self._segments.drop_up_to(firsts[keep] - 1)
            for first in firsts[:keep]:
                self._last_index_in.pop(first, None)

    def close(self) -> None:
        self._segments.close()

    def _numbered(self, payloads: list[bytes]) -> list[segments.Entry]:
        return [
            segments.Entry(self._sequence + number, self._term, payload)
            for number, payload in enumerate(payloads, 1)
        ]

    # What the engine asks.

    @property
    def first_index(self) -> int:
        return self._entries[0][1]

    @property
    def last_index(self) -> int:
        return self._entries[-1][1]

    @property
    def last_term(self) -> int:
        return self._entries[-1][2]

    def term_at(self, index: int) -> int | None:
        """The term of this entry, None if the log does not have it."""
        offset = index - self._entries[0][1]
        return self._entries[offset][2] if 0 <= offset < len(self._entries) else None

    def entries_from(self, first: int, *, max_bytes: int) -> list[Entry]:
        """The entries from this one on, at least one, up to so many bytes."""
        start = first - self._entries[0][1]
        end, size = start, 0
        while end < len(self._entries):
            size += len(self._entries[end][0])
            if size > max_bytes and end > start:
                break
            end += 1
        return self._entries[start:end]

    def cut_from(self, index: int) -> None:
        """Remove this entry and all later ones."""
        self.deleteEntriesFrom(index - self._entries[0][1])

    def announce(self, index: int, term: int) -> None:
        """A snapshot of this entry is going to be published: a log that ends before it is no damage."""
        self._arriving = (index, term)
        self._pending.append(b"A" + _place.pack(index, term))

    def reset(self, index: int, term: int, configuration: Configuration) -> None:
        """Begin anew behind the snapshot of this entry, which holds this configuration."""
        self.members.cut_from(index)
        self.members.begin_at(index, configuration)
        self._pending.append(b"B" + _place.pack(index, term))
        self._entries = [(NO_OP_COMMAND, index, term)]
        for first in list(self._last_index_in):
            self._last_index_in[first] = index

    def trim_behind(self, index: int, *, entries: int, size: int) -> None:
        """Let go of what memory holds before this entry, except so much of it. Files stay."""
        first = self._entries[0][1]
        keep, kept = index - first, 0
        while keep > 0 and index - first - keep < entries:
            kept += len(self._entries[keep][0])
            if kept > size:
                break
            keep -= 1
        self.deleteEntriesTo(keep)
        self.members.forget_before(index)

    # What the library asks (pysyncobj/journal.py, Journal).

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Raises ValueError if it is of the kind that brings members, and brings none."""
        configuration = configuration_in(command)
        if configuration is not None:
            self.members.add(idx, configuration)
        self._pending.append(b"E" + _place.pack(idx, term) + command)
        self._entries.append((command, idx, term))

    def clear(self) -> None:
        raise NotImplementedError("a log is never emptied; it is reset behind a snapshot")

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        if 0 < entryFrom < len(self._entries):
            index = self._entries[entryFrom][1]
            self._pending.append(b"C" + _number.pack(index))
            del self._entries[entryFrom:]
            self.members.cut_from(index)

    def deleteEntriesTo(self, entryTo: int) -> None:
        del self._entries[: max(0, min(entryTo, len(self._entries) - 1))]

    def __getitem__(self, item: Any) -> Any:
        return self._entries[item]

    def __len__(self) -> int:
        return len(self._entries)

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        """Not kept: it is found out again (figure 2 has it among the volatile state)."""

    def getRaftCommitIndex(self) -> int:
        return self._entries[0][1]

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        self._term, self._vote = term, votedForNodeId
        self._pending.append(_vote_record(term, votedForNodeId))

    def getCurrentTerm(self) -> int:
        return self._term

    def getVotedForNodeId(self) -> str | None:
        return self._vote

    def _destroy(self) -> None:
        self.close()

    def _damaged(self, what: str) -> DamagedLog:
        return DamagedLog(f"the log in {self._folder} is damaged: {what}. {WHAT_TO_DO}")


def _vote_record(term: int, vote: str | None) -> bytes:
    return b"V" + _number.pack(term) + (vote or "").encode()
