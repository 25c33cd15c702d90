"""The closed codec: what it takes, what it refuses, and that nothing is ever unpickled."""

import pickle
import random
from typing import Any

import pysyncobj.pickle
import pysyncobj.syncobj
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_master.state.raft import codec
from orca_master.state.raft.codec import (
    Append,
    AppendReply,
    LibraryCodec,
    Message,
    Piece,
    PieceReply,
    PreVote,
    PreVoteReply,
    RequestVote,
    TimeoutNow,
    VoteReply,
)
from sim.raft.history import History
from sim.virtual_time import run_virtual

MESSAGES: list[Message] = [
    Append(3, 4, 5, 6, 2, 6, codec.pack_entries([(b"\x01", 7, 3), (b"\x00abc", 8, 3)])),
    AppendReply(3, 4, 5, True, 9),
    PreVote(3, 1, 8, 3),
    PreVoteReply(3, 1, False),
    RequestVote(4, 8, 3, True),
    VoteReply(4, True),
    TimeoutNow(4),
    Piece(4, 1, 100, 3, 0, b"part", True, False),
    PieceReply(4, 1, 100, 1, False),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_a_message_comes_back_as_it_was(message: Message) -> None:
    assert codec.decode_message(codec.encode_message(message)) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_a_message_cut_off_or_longer_is_refused(message: Message) -> None:
    raw = codec.encode_message(message)
    for cut in range(len(raw)):
        with pytest.raises(ValueError):
            codec.decode_message(raw[:cut])
    with pytest.raises(ValueError):
        codec.decode_message(raw + b"\x00")


@given(st.binary(max_size=200))
def test_random_bytes_are_a_message_or_refused(raw: bytes) -> None:
    try:
        message = codec.decode_message(raw)
    except ValueError:
        return
    assert codec.decode_message(codec.encode_message(message)) == message


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=50), st.integers(0, 1 << 60)), max_size=8))
def test_entries_come_back_and_cut_off_ones_are_refused(content: list[tuple[bytes, int]]) -> None:
    entries = [(command, 5 + n, term) for n, (command, term) in enumerate(content)]
    packed = codec.pack_entries(entries)
    assert codec.unpack_entries(packed, first_index=5) == entries
    if packed:
        with pytest.raises(ValueError):
            codec.unpack_entries(packed[:-1], first_index=5)


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=8))
def test_a_batch_comes_back_in_order(proposals: list[bytes]) -> None:
    assert list(codec.decode_batch(codec.encode_batch(proposals))) == proposals


def test_an_entry_that_claims_to_be_huge_is_refused() -> None:
    with pytest.raises(ValueError):
        codec.unpack_entries(b"\xff\xff\xff\xff" + bytes(8) + b"x", first_index=1)


def test_the_library_encodes_membership_and_versions_without_pickle() -> None:
    assert pysyncobj.syncobj.pickle is LibraryCodec
    assert LibraryCodec.loads(LibraryCodec.dumps(["add", "m4", object()])) == ("add", "m4")
    assert LibraryCodec.loads(LibraryCodec.dumps(3)) == 3
    with pytest.raises(TypeError):
        LibraryCodec.dumps({"any": "thing"})
    chance = random.Random(1)
    for raw in [pickle.dumps(["add", "m4"]), *(chance.randbytes(9) for _ in range(300))]:
        try:
            value = LibraryCodec.loads(raw)
        except ValueError:
            continue
        assert isinstance(value, int | tuple)


@pytest.fixture
def no_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("something was unpickled")

    for module in (pickle, pysyncobj.pickle, pysyncobj.pickle.pickle):
        for verb in ("load", "loads", "Unpickler", "_Unpickler", "_load", "_loads"):
            if hasattr(module, verb):
                monkeypatch.setattr(module, verb, refuse)


@pytest.mark.usefixtures("no_pickle")
def test_whole_histories_unpickle_nothing() -> None:
    history = History(1)
    run_virtual(history.run())
    assert history.counts["entries applied"] > 100
    assert history.counts["snapshots restored"] > 0
