"""The bytes of a log entry and of a snapshot: what was made from one version of the state.

Both are msgpack arrays that begin with their format. An entry of format 2 is
`[2, base version, [[table, key, bytes or nil], ...], [[kind, subject, bytes], ...]]`: rows and
recorded events. A snapshot is a first part `[2, version, number of rows, digest, version of the last
event, chain]`, then parts `[[table, key, bytes], ...]`. Format 1, which is still read, has no events,
no digest and no chain.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import msgspec

from orca_master.state.history.event import BEGINNING, Event, Head, Record, head_after, placed
from orca_master.state.rows import State, StateBuilder
from orca_master.state.table import Key, Schema
from orca_master.state.transaction import Changes

FORMAT = 2
OLDEST_FORMAT = 1
ROWS_PER_PART = 500

_Rows = list[tuple[str, Key, bytes | None]]

_encoder = msgspec.msgpack.Encoder()
_entry_decoder = msgspec.msgpack.Decoder(tuple[int, int, _Rows, list[Record]])
_entry_decoder_1 = msgspec.msgpack.Decoder(tuple[int, int, _Rows])
_header_decoder = msgspec.msgpack.Decoder(tuple[int, int, int, bytes, int, bytes])
_header_decoder_1 = msgspec.msgpack.Decoder(tuple[int, int, int])
_part_decoder = msgspec.msgpack.Decoder(list[tuple[str, Key, bytes]])


@dataclass(frozen=True, slots=True)
class Entry:
    """Row changes and recorded events, made from version `base` of the state."""

    base: int
    changes: Changes
    records: Sequence[Record] = ()


def encode_entry(entry: Entry) -> bytes:
    rows = [(table, key, raw) for (table, key), raw in entry.changes.items()]
    return _encoder.encode((FORMAT, entry.base, rows, entry.records))


def decode_entry(raw: bytes) -> Entry:
    """Raises ValueError on bytes that are no entry, or one of a format that is not known here."""
    records: list[Record] = []
    if _format_of(raw, "entry") == 1:
        _, base, rows = _entry_decoder_1.decode(raw)
    else:
        _, base, rows, records = _entry_decoder.decode(raw)
    return Entry(base, {(table, key): row for table, key, row in rows}, records)


def apply_entry(state: State, entry: Entry) -> tuple[State, list[Event]]:
    """The state after an entry that was made from it, and the events that it recorded."""
    events = placed(state.history, state.version + 1, entry.records)
    draft = state
    for (table, key), raw in entry.changes.items():
        draft = draft.changed(table, key, raw)
    return draft.at(state.version + 1, head_after(state.history, events)), events


def capture(state: State) -> Iterator[bytes]:
    """The parts of a snapshot, each made only when it is asked for."""
    yield _encoder.encode((FORMAT, state.version, state.row_count, state.digest, *state.history))
    rows = state.raw_rows()
    while part := list(islice(rows, ROWS_PER_PART)):
        yield _encoder.encode(part)


class Restoration:
    """A state on its way back from the parts of a snapshot, given in order, to replace the present one."""

    def __init__(self, present: State) -> None:
        self._rows = StateBuilder(present)
        self._version: int | None = None
        self._count = 0
        self._digest = b""
        self._history = BEGINNING

    def take(self, part: bytes) -> None:
        """Raises ValueError if that is no part of a snapshot, or one of a format not known here."""
        if self._version is None:
            self._take_header(part)
            return
        for table, key, raw in _part_decoder.decode(part):
            self._rows.add(table, key, raw)

    def state(self) -> State:
        """Once, at the end. Raises ValueError if the parts were not all, or not what was captured."""
        if self._version is None:
            raise ValueError("an empty snapshot")
        if self._rows.row_count != self._count:
            raise ValueError(f"a snapshot of {self._count} rows holds {self._rows.row_count}")
        state = self._rows.state(self._version, self._history)
        if self._digest and state.digest != self._digest:
            raise ValueError("the rows of a snapshot are not those that its digest was made from")
        return state

    def _take_header(self, raw: bytes) -> None:
        if _format_of(raw, "snapshot") == 1:
            _, self._version, self._count = _header_decoder_1.decode(raw)
            return
        _, version, self._count, self._digest, last, chain = _header_decoder.decode(raw)
        self._version, self._history = version, Head(last, chain)


def restore(schema: Schema, parts: Iterable[bytes]) -> State:
    """Raises ValueError if the parts are not a whole capture, or not what was captured."""
    restoration = Restoration(State(schema))
    for part in parts:
        restoration.take(part)
    return restoration.state()


def _format_of(raw: bytes, what: str) -> int:
    """The small number behind the array's own byte. Raises ValueError if it is not known here."""
    kind = raw[1] if len(raw) > 1 else -1
    if not OLDEST_FORMAT <= kind <= FORMAT:
        raise ValueError(
            f"{what} of format {kind}; this master knows {OLDEST_FORMAT} to {FORMAT}. If a newer"
            " master wrote it, install that version here and start again: nothing was changed"
        )
    return kind
