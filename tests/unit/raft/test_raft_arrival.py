"""A snapshot that comes in pieces: which piece is taken, and what waits in memory."""

from dataclasses import dataclass

import pytest

from orca_master.state.raft.codec import Piece
from orca_master.state.raft.snapshot import Arrival


@dataclass
class Sender:
    """Makes the pieces of one snapshot."""

    index: int = 9

    def piece(self, number: int, *, is_last: bool = False) -> Piece:
        return Piece(
            term=2,
            round=0,
            index=self.index,
            index_term=1,
            number=number,
            data=b"data",
            ends_part=is_last,
            is_last=is_last,
        )


def test_pieces_are_taken_in_order_and_only_once():
    arrival, sender = Arrival(), Sender()
    assert not arrival.put("a", sender.piece(1)), "the first has not come"
    assert arrival.put("a", sender.piece(0))
    assert not arrival.put("a", sender.piece(2))
    assert arrival.put("a", sender.piece(1))
    assert not arrival.put("a", sender.piece(1))
    assert [piece.number for piece in arrival.take_pieces()] == [0, 1]
    assert not arrival.has_pieces


def test_nothing_more_is_taken_once_the_last_has_come():
    arrival, sender = Arrival(), Sender()
    assert arrival.put("a", sender.piece(0))
    assert arrival.put("a", sender.piece(1, is_last=True))
    assert not arrival.put("b", Sender(index=10).piece(0))
    arrival.clear()
    assert arrival.put("b", Sender(index=10).piece(0))


def test_another_snapshot_takes_the_place_of_one_that_is_not_whole():
    arrival = Arrival()
    assert arrival.put("a", Sender().piece(0))
    assert arrival.put("b", Sender(index=10).piece(0))
    assert [piece.index for piece in arrival.take_pieces()] == [10]
    assert (arrival.sender, arrival.index) == ("b", 10)
    assert not arrival.put("a", Sender().piece(1)), "it belongs to the other"


def test_a_part_without_an_end_is_refused():
    arrival, sender = Arrival(largest_part_bytes=10), Sender()
    assert arrival.put("a", sender.piece(0))
    assert arrival.put("a", sender.piece(1))
    with pytest.raises(ValueError, match="larger than any"):
        arrival.put("a", sender.piece(2))
