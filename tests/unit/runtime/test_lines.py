"""Whole lines, and where the last ones begin."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from orca_worker.runtime import lines
from orca_worker.runtime.docker.streams import frames

texts = st.lists(st.sampled_from([b"", b"a", b"bc", b"d" * 50]), max_size=30).map(b"\n".join)


@given(texts, st.integers(0, 40))
def test_the_tail_is_the_last_lines(text: bytes, tail: int) -> None:
    start = lines.tail_offset(lambda count, at: text[at : at + count], len(text), tail)
    expected = text.split(b"\n")
    ended = bool(expected) and expected[-1] == b""
    rows = [row + b"\n" for row in expected[:-1]] + ([] if ended else expected[-1:])
    assert text[start:] == b"".join(rows[-tail:] if tail else [])


@given(texts, st.integers(1, 7), st.integers(1, 60))
def test_chunks_end_where_lines_end_and_lose_nothing(text: bytes, cut: int, size: int) -> None:
    pieces = (text[at : at + cut] for at in range(0, len(text), cut))
    chunks = list(lines.whole_lines(pieces, size=size))
    assert b"".join(chunks) == text
    assert all(chunk.endswith(b"\n") for chunk in chunks[:-1])


def test_a_line_without_end_is_not_held_in_memory() -> None:
    pieces = (b"x" * 65536 for _ in range(40))
    assert max(map(len, lines.whole_lines(pieces))) <= lines.LONGEST_LINE_BYTES


@given(st.lists(st.binary(max_size=20), max_size=10), st.integers(1, 9))
def test_frames_are_found_however_they_are_cut(payloads: list[bytes], cut: int) -> None:
    wire = b"".join(struct.pack(">BxxxI", 1, len(payload)) + payload for payload in payloads)
    pieces = (wire[at : at + cut] for at in range(0, len(wire), cut))
    assert list(frames(pieces)) == payloads
