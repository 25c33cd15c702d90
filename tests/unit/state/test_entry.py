"""The bytes in the log and in snapshots: old ones are read, newer and damaged ones are refused."""

import msgspec
import pytest

from orca_master.state import entry as codec
from orca_master.state.history.event import BEGINNING, Record, placed
from orca_master.state.rows import State
from orca_master.state.table import Schema, Table


class Row(msgspec.Struct, frozen=True):
    id: str
    value: int = 0


ROWS = Table("rows", Row, key=lambda r: (r.id,))
SCHEMA = Schema(ROWS)

FORMAT_1_ENTRY = bytes.fromhex(
    "9301009393a4726f777391a161c40d82a26964a161a576616c75650193a4726f777391a162c40d82a26964a162a5"
    "76616c75650293a56f7468657292a178a179c0"
)
FORMAT_1_SNAPSHOT = [
    bytes.fromhex("93010102"),
    bytes.fromhex(
        "9293a4726f777391a162c40d82a26964a162a576616c75650293a4726f777391a161c40d82a26964a161a57661"
        "6c756501"
    ),
]
"""Written by the version that knew no other format."""

RECORDS = [Record("deployed", "web", b"\x80"), Record("stopped", "web", b"\x80")]


def a_state() -> State:
    entry = codec.decode_entry(FORMAT_1_ENTRY)
    return codec.apply_entry(State(SCHEMA), entry)[0]


def test_an_entry_and_a_snapshot_of_format_1_are_read() -> None:
    state = a_state()
    assert [*state.scan(ROWS)] == [Row("a", 1), Row("b", 2)]
    assert (state.version, state.history) == (1, BEGINNING)
    restored = codec.restore(SCHEMA, FORMAT_1_SNAPSHOT)
    assert [*restored.scan(ROWS)] == [Row("a", 1), Row("b", 2)]
    assert (restored.version, restored.digest) == (1, state.digest)


def test_an_entry_comes_back_as_it_was() -> None:
    entry = codec.Entry(7, {("rows", ("a",)): b"raw", ("rows", ("b",)): None}, RECORDS)
    assert codec.decode_entry(codec.encode_entry(entry)) == entry


def test_a_newer_format_is_refused_with_what_to_do() -> None:
    newer = bytearray(FORMAT_1_ENTRY)
    newer[1] = codec.FORMAT + 1
    with pytest.raises(
        ValueError, match=r"format 3; this master knows 1 to 2.*install that version"
    ):
        codec.decode_entry(bytes(newer))
    with pytest.raises(ValueError, match="snapshot of format 3"):
        codec.restore(SCHEMA, [b"\x93\x03\x01\x02"])


@pytest.mark.parametrize("raw", [b"", b"\x93", b"\x93\x02", b"\x93\x02\x00", b"\xc0\x02"])
def test_bytes_that_are_no_entry_are_refused(raw: bytes) -> None:
    with pytest.raises(ValueError):
        codec.decode_entry(raw)
    with pytest.raises(ValueError):
        codec.restore(SCHEMA, [raw])


def test_recorded_events_move_the_chain_and_the_digest_and_come_through_a_snapshot() -> None:
    state = a_state()
    after, events = codec.apply_entry(state, codec.Entry(1, {}, RECORDS))
    assert events == placed(BEGINNING, 2, RECORDS)
    assert after.history == (2, events[-1].chain)
    assert after.digest != state.digest
    swapped, _ = codec.apply_entry(state, codec.Entry(1, {}, RECORDS[::-1]))
    assert swapped.history != after.history, "their order is part of the chain"
    restored = codec.restore(SCHEMA, codec.capture(after))
    assert (restored.history, restored.digest) == (after.history, after.digest)


@pytest.mark.parametrize("change", ["a row", "the chain"])
def test_a_snapshot_whose_digest_does_not_fit_is_damaged(change: str) -> None:
    header, rows = codec.capture(codec.apply_entry(a_state(), codec.Entry(1, {}, RECORDS))[0])
    if change == "a row":
        rows = rows.replace(Row("a", 1).id.encode() + b"\xa5value\x01", b"a\xa5value\x03")
    else:
        header = header[:-1] + bytes([header[-1] ^ 1])
    with pytest.raises(ValueError, match="digest"):
        codec.restore(SCHEMA, [header, rows])


def test_a_snapshot_that_holds_a_row_twice_is_refused():
    header = msgspec.msgpack.encode((2, 1, 2, b"", 0, b""))
    row = ("rows", ("a",), ROWS.encode(Row("a", 1)))
    with pytest.raises(ValueError, match="twice"):
        codec.restore(
            SCHEMA, [header, msgspec.msgpack.encode([row]), msgspec.msgpack.encode([row])]
        )
