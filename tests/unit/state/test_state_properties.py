"""Whatever is done to a State, it reads like a plain dict to which the same was done."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from orca_master.state import entry as codec
from orca_master.state.rows import State
from orca_master.state.table import Schema, Table
from orca_master.state.transaction import Changes, Transaction


class Row(msgspec.Struct, frozen=True):
    owner: str
    name: str
    value: int
    colour: str | None


ROWS = Table(
    "rows",
    Row,
    key=lambda r: (r.owner, r.name),
    indexes={"colour": lambda r: r.colour, "owner": lambda r: r.owner},
)
SCHEMA = Schema(ROWS)

few = st.sampled_from(["", "a", "b", "é"])
rows = st.builds(
    Row,
    owner=few,
    name=few,
    value=st.integers(0, 3),
    colour=st.none() | st.sampled_from(["r", "g"]),
)
operations = st.lists(st.tuples(st.just("put"), rows) | st.tuples(st.just("delete"), few, few))
groups = st.lists(operations, max_size=6)


def run(tx: Transaction, model: dict[tuple[str, str], Row], todo: list[tuple]) -> None:
    for operation in todo:
        if operation[0] == "put":
            row = operation[1]
            tx.put(ROWS, row)
            model[row.owner, row.name] = row
        else:
            _, owner, name = operation
            tx.delete(ROWS, owner, name)
            model.pop((owner, name), None)


def check(state: State, model: dict[tuple[str, str], Row]) -> None:
    expected = [model[key] for key in sorted(model)]
    assert list(state.scan(ROWS)) == expected
    assert state.count(ROWS) == len(model)
    for owner in ("", "a", "b", "é"):
        assert state.find(ROWS, "owner", owner) == [r for r in expected if r.owner == owner]
        for name in ("", "a", "b", "é"):
            assert state.get(ROWS, owner, name) == model.get((owner, name))
    for colour in ("r", "g"):
        assert state.find(ROWS, "colour", colour) == [r for r in expected if r.colour == colour]


@settings(max_examples=150, derandomize=True, deadline=None)
@given(groups)
def test_a_state_equals_a_dict_and_so_do_its_entries_and_its_capture(todo):
    state, applied = State(SCHEMA), State(SCHEMA)
    model: dict[tuple[str, str], Row] = {}
    history: list[tuple[State, dict[tuple[str, str], Row]]] = []
    for operations_of_one in todo:
        tx = Transaction(state)
        run(tx, model, operations_of_one)
        entry = codec.decode_entry(codec.encode_entry(codec.Entry(state.version, tx.changes)))
        assert entry.base == state.version
        state = tx.state.at(state.version + 1, state.history)
        applied, _ = codec.apply_entry(applied, entry)
        history.append((state, dict(model)))
    for version, then in history:
        check(version, then)
    assert [*applied.raw_rows()] == [*state.raw_rows()]
    assert applied.digest == state.digest
    check(applied, model)
    restored = codec.restore(SCHEMA, codec.capture(state))
    check(restored, model)
    assert restored.version == state.version
    assert restored.digest == state.digest
    for present, _ in history:
        over = codec.Restoration(present)
        for part in codec.capture(state):
            over.take(part)
        replaced = over.state()
        check(replaced, model)
        assert replaced.digest == state.digest, "whatever it replaces"
    afresh = State(SCHEMA)
    for table, key, raw in reversed([*state.raw_rows()]):
        afresh = afresh.changed(table, key, raw)
    assert afresh.digest == state.digest, "whatever way led here"
    for other, _ in history:
        same = sorted(other.raw_rows()) == sorted(state.raw_rows())
        assert (other.digest == state.digest) == same


@settings(max_examples=100, derandomize=True, deadline=None)
@given(operations, operations)
def test_changes_hold_exactly_what_differs_from_the_base(first, second):
    model: dict[tuple[str, str], Row] = {}
    tx = Transaction(State(SCHEMA))
    run(tx, model, first)
    base = tx.state
    tx = Transaction(base)
    run(tx, model, second)
    changes: Changes = tx.changes
    for table, key, raw in tx.state.raw_rows():
        if base.raw(table, key) != raw:
            assert changes[table, key] == raw
    for (table, key), raw in changes.items():
        assert tx.state.raw(table, key) == raw
