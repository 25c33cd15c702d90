"""Frames of a WebSocket, cut anywhere, with and without masks."""

import itertools
import struct

from aiohttp import WebSocketError
from hypothesis import given
from hypothesis import strategies as st

from orca_master.http.frames import MaskedFrames


class Heard:
    """Stands in for the framework's parser."""

    def __init__(self) -> None:
        self.heard = b""
        self.error: Exception | None = None

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.heard += data
        return False, b""

    def refuse(self, error: Exception) -> None:
        self.error = error


def frame(size: int, *, masked: bool = True) -> bytes:
    bit = 0x80 if masked else 0
    if size < 126:
        head = struct.pack("!BB", 0x82, bit | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", 0x82, bit | 126, size)
    else:
        head = struct.pack("!BBQ", 0x82, bit | 127, size)
    return head + (b"mask" if masked else b"") + b"x" * size


def fed(data: bytes, cuts: list[int]) -> Heard:
    heard = Heard()
    frames = MaskedFrames(heard, heard.refuse)  # type: ignore[arg-type]
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, end in itertools.pairwise(places):
        frames.feed_data(data[start:end])
        if heard.error is not None:
            break
    return heard


sizes = st.lists(st.sampled_from([0, 1, 125, 126, 127, 1000, 65535, 65536]), min_size=1, max_size=5)


@given(sizes, st.lists(st.integers(0, 1 << 20), max_size=8))
def test_masked_frames_pass_wherever_they_are_cut(sizes: list[int], cuts: list[int]) -> None:
    data = b"".join(frame(size) for size in sizes)
    heard = fed(data, cuts)
    assert (heard.heard, heard.error) == (data, None)


@given(sizes, st.lists(st.integers(0, 1 << 20), max_size=8))
def test_one_without_a_mask_is_found(sizes: list[int], cuts: list[int]) -> None:
    data = b"".join(frame(size) for size in sizes) + frame(5, masked=False)
    heard = fed(data, cuts)
    assert isinstance(heard.error, WebSocketError)
    assert heard.error.code == 1002
