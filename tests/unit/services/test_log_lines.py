"""Lines of several replicas as one text. Pure."""

from hypothesis import given
from hypothesis import strategies as st

from orca_master.services.logs import Page
from orca_master.tasks.model import Task
from orca_master.tasks.output import Piece


def a_task(slot: int) -> Task:
    return Task(f"{slot:016x}", "service:default/p/web", "p", "web", 1, slot, "hash", 0.0)


def a_piece(slot: int, data: bytes, left_out: int = 0) -> Piece:
    return Piece(a_task(slot), data, left_out, False, "", 0.0)


def text(page: Page, *pieces: Piece) -> bytes:
    return b"".join(page.lines(piece) for piece in pieces)


def test_one_replica_is_written_as_it_is() -> None:
    assert (
        text(Page("web", several=False), a_piece(1, b"a\n\nb"), a_piece(1, b"c\n")) == b"a\n\nbc\n"
    )


def test_each_line_of_several_names_its_replica() -> None:
    said = text(Page("web", several=True), a_piece(1, b"a\nb\n"), a_piece(2, b"\n"))
    assert said == b"web/1 | a\nweb/1 | b\nweb/2 | \n"


def test_a_line_that_is_cut_goes_on_or_is_ended_by_another_replicas() -> None:
    page = Page("web", several=True)
    said = text(page, a_piece(1, b"be"), a_piece(1, b"gin\nhalf"), a_piece(2, b"x\n"))
    assert said == b"web/1 | begin\nweb/1 | half\nweb/2 | x\n"


def test_what_is_missing_stands_where_it_is_missing() -> None:
    page = Page("web", several=False)
    assert text(page, a_piece(1, b"a\n"), a_piece(1, b"z\n", left_out=123)) == (
        b"a\n... 123 lines were left out: the reader was too slow\nz\n"
    )
    page.is_of_several()
    assert text(page, a_piece(2, b"", left_out=1)) == (
        b"... replica 2: 1 line was left out: the reader was too slow\n"
    )


@given(st.lists(st.tuples(st.integers(1, 3), st.binary(max_size=8)), max_size=30))
def test_nothing_of_any_replica_is_lost_or_mixed_up(written: list[tuple[int, bytes]]) -> None:
    page = Page("w", several=True)
    said = text(page, *(a_piece(slot, data) for slot, data in written if data))
    for slot in (1, 2, 3):
        mark = b"w/%d | " % slot
        mine = [line.removeprefix(mark) for line in said.split(b"\n") if line.startswith(mark)]
        assert b"".join(mine) == b"".join(d for s, d in written if s == slot).replace(b"\n", b"")
