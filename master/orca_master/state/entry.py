"""The bytes of a log entry and of a snapshot: row changes made from one version of the state.

Format 1, msgpack: entry `[1, base version, [[table, key, bytes or nil], ...]]`; snapshot: a first
part `[1, version, number of rows]`, then parts `[[table, key, bytes], ...]`.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

import msgspec

from orca_master.state.rows import State
from orca_master.state.table import Key, Schema
from orca_master.state.transaction import Changes

FORMAT = 1
ROWS_PER_PART = 500

_encoder = msgspec.msgpack.Encoder()
_entry_decoder = msgspec.msgpack.Decoder(tuple[int, int, list[tuple[str, Key, bytes | None]]])
_header_decoder = msgspec.msgpack.Decoder(tuple[int, int, int])
_part_decoder = msgspec.msgpack.Decoder(list[tuple[str, Key, bytes]])


def encode_entry(base_version: int, changes: Changes) -> bytes:
    rows = [(table, key, raw) for (table, key), raw in changes.items()]
    return _encoder.encode((FORMAT, base_version, rows))


def decode_entry(entry: bytes) -> tuple[int, Changes]:
    """(base version, changes). Raises ValueError on bytes that are no entry of this format."""
    kind, base, rows = _entry_decoder.decode(entry)
    if kind != FORMAT:
        raise ValueError(f"entry of format {kind}; this master knows {FORMAT}")
    return base, {(table, key): raw for table, key, raw in rows}


def apply_changes(state: State, changes: Changes) -> State:
    for (table, key), raw in changes.items():
        state = state.changed(table, key, raw)
    return state.at(state.version + 1)


def capture(state: State) -> Iterator[bytes]:
    """The parts of a snapshot, each made only when it is asked for."""
    yield _encoder.encode((FORMAT, state.version, state.row_count))
    rows = state.raw_rows()
    while part := list(islice(rows, ROWS_PER_PART)):
        yield _encoder.encode(part)


def restore(schema: Schema, parts: Iterable[bytes]) -> State:
    """Raises ValueError if the parts are not a whole capture."""
    remaining = iter(parts)
    header = next(remaining, None)
    if header is None:
        raise ValueError("an empty snapshot")
    kind, version, count = _header_decoder.decode(header)
    if kind != FORMAT:
        raise ValueError(f"snapshot of format {kind}; this master knows {FORMAT}")
    state = State(schema)
    seen = 0
    for part in remaining:
        for table, key, raw in _part_decoder.decode(part):
            state = state.changed(table, key, raw)
            seen += 1
    if seen != count:
        raise ValueError(f"a snapshot of {count} rows holds {seen}")
    return state.at(version)
