"""An older master changes rows that a newer one wrote: nothing of theirs is lost."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from orca_master.state.rows import State
from orca_master.state.table import Schema, Table
from orca_master.state.transaction import Transaction


class NewInner(msgspec.Struct, frozen=True, omit_defaults=True):
    a: int = 0
    later: str = ""


class New(msgspec.Struct, frozen=True, omit_defaults=True):
    id: str
    count: int = 0
    inner: NewInner = NewInner()
    maybe: NewInner | None = None
    added: list[int] = []


class OldInner(msgspec.Struct, frozen=True, omit_defaults=True):
    a: int = 0


class Old(msgspec.Struct, frozen=True, omit_defaults=True):
    id: str
    count: int = 0
    inner: OldInner = OldInner()
    maybe: OldInner | None = None


NEW = Table("rows", New, key=lambda r: (r.id,))
OLD = Table("rows", Old, key=lambda r: (r.id,))


def changed_by_the_old(row: New, **fields: object) -> New:
    """What the newer master reads after the older one has changed some fields."""
    state = State(Schema(OLD)).changed("rows", (row.id,), NEW.encode(row))
    tx = Transaction(state)
    before = tx.need(OLD, row.id, kind="row")
    tx.put(OLD, msgspec.structs.replace(before, **fields))
    raw = tx.state.raw("rows", (row.id,))
    assert raw is not None
    return NEW.decode(raw)


def test_unknown_fields_stay() -> None:
    row = New("x", 1, added=[1, 2])
    assert changed_by_the_old(row, count=2) == New("x", 2, added=[1, 2])


def test_unknown_fields_of_nested_rows_stay() -> None:
    row = New("x", 1, NewInner(3, "kept"), NewInner(4, "too"))
    assert changed_by_the_old(row, inner=OldInner(5)) == New(
        "x", 1, NewInner(5, "kept"), NewInner(4, "too")
    )


def test_a_nested_row_that_becomes_its_default_keeps_them_too() -> None:
    row = New("x", 1, NewInner(3, "kept"))
    assert changed_by_the_old(row, inner=OldInner()) == New("x", 1, NewInner(0, "kept"))


def test_writing_what_is_there_changes_nothing() -> None:
    row = New("x", 1, added=[1])
    state = State(Schema(OLD)).changed("rows", ("x",), NEW.encode(row))
    tx = Transaction(state)
    tx.put(OLD, tx.need(OLD, "x", kind="row"))
    assert tx.changes == {}


inners = st.builds(NewInner, a=st.integers(0, 9), later=st.text(max_size=3))


@given(
    row=st.builds(
        New,
        id=st.just("x"),
        count=st.integers(0, 9),
        inner=inners,
        maybe=st.none() | inners,
        added=st.lists(st.integers(0, 9), max_size=2),
    ),
    count=st.integers(0, 9),
    a=st.integers(0, 9),
)
def test_whatever_the_row_only_what_was_changed_changes(row: New, count: int, a: int) -> None:
    after = changed_by_the_old(row, count=count, inner=OldInner(a))
    assert after == msgspec.structs.replace(row, count=count, inner=NewInner(a, row.inner.later))
