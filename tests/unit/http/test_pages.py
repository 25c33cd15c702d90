"""Pages of lists."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_master.errors import Invalid
from orca_master.http.dialects import Continued, Numbered, Window
from orca_master.http.pages import (
    ContinuedQuery,
    NumberedQuery,
    WindowQuery,
    continued,
    numbered,
    window,
)


def test_pages_by_number() -> None:
    page = numbered(range(5), NumberedQuery(page=2, pageSize=2), str)
    assert (page.items, page.place) == (["2", "3"], Numbered(2, 2, 5))
    assert numbered(range(5), NumberedQuery(page=9, pageSize=2), str).items == []


def test_pages_by_offset() -> None:
    page = window(range(5), WindowQuery(limit=2, offset=4), str)
    assert (page.items, page.place) == (["4"], Window(2, 4, 5))
    assert window(range(5), WindowQuery(offset=7), str).items == []


@given(
    st.lists(st.tuples(st.integers(0, 50), st.text(max_size=3)), unique=True, max_size=40),
    st.lists(st.tuples(st.integers(0, 50), st.text(max_size=3)), unique=True, max_size=40),
    st.integers(1, 7),
)
def test_a_walk_sees_each_row_that_stays_once(
    kept: list[tuple[int, str]], others: list[tuple[int, str]], size: int
) -> None:
    """Whatever else comes and goes between two pages."""
    seen, token, turn = [], "", 0
    while True:
        turn += 1
        rows = sorted({*kept, *others[turn % 2 :: 2]})
        query = ContinuedQuery(page_token=token, page_size=size)
        page = continued(rows, query, lambda row: row, key=lambda row: row)
        seen += page.items
        assert isinstance(page.place, Continued)
        if page.place.next_token is None:
            break
        token = page.place.next_token
    assert len(seen) == len(set(seen))
    assert set(kept) <= set(seen)
    assert seen == sorted(seen)


@pytest.mark.parametrize("token", ["x", "%%%", "AAAA", "A" * 1000])
def test_a_token_that_is_none_is_refused(token: str) -> None:
    with pytest.raises(Invalid, match="page_token"):
        continued([1], ContinuedQuery(page_token=token), str, key=lambda row: (row,))


def test_a_token_of_another_choice_is_refused() -> None:
    query = ContinuedQuery(page_size=1)
    page = continued([1, 2], query, str, key=lambda row: (row,), filters="status=running")
    assert isinstance(page.place, Continued)
    again = ContinuedQuery(page_token=page.place.next_token or "")
    with pytest.raises(Invalid, match="not of this list"):
        continued([1, 2], again, str, key=lambda row: (row,), filters="status=failed")
