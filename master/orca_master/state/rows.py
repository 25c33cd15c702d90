"""One version of the whole state: immutable, cheap to keep, cheap to derive the next from.

Built on `immutables.Map`, so a reader, a draft and a snapshot being written share what they have in
common. A row that this master cannot decode (written by a newer one, say) is kept and passed on as
bytes; it is merely not indexed, and reading it raises.

A digest goes along: the sum of a hash of every row, so that writing a row changes it in one step and
the order does not matter. It shows damage and divergence; it is no proof against forgery.
"""

from collections.abc import Iterator
from hashlib import blake2b
from typing import Any, TypeVar

import msgspec
from immutables import Map, MapMutation

from orca_master.state.history.event import BEGINNING, Head
from orca_master.state.table import Key, Schema, Table

R = TypeVar("R", bound=msgspec.Struct)

DIGEST_BYTES = 32

_IndexKey = tuple[str, str, str]  # table, index, value
_SUM_MASK = (1 << 8 * DIGEST_BYTES) - 1
_encode = msgspec.msgpack.Encoder().encode


class Cell:
    """A row's bytes, their share in the digest, and the row once somebody has asked for it.

    `is_own`: the bytes are just the row as this master encodes it, nothing unknown is in them.
    """

    __slots__ = ("_value", "is_own", "raw", "share")

    def __init__(self, raw: bytes, share: int, value: Any = None) -> None:
        self.raw = raw
        self.share = share
        self.is_own = value is not None
        self._value = value

    def value(self, table: Table[R]) -> R:
        if self._value is None:
            self._value = table.decode(self.raw)
        return self._value  # type: ignore[no-any-return]


class State:
    """Rows of all tables at one version. All iteration is in key order, the same on every master."""

    __slots__ = ("_indexes", "_sum", "_tables", "history", "schema", "version")

    def __init__(
        self,
        schema: Schema,
        version: int = 0,
        tables: Map[str, Map[Key, Cell]] | None = None,
        indexes: Map[_IndexKey, Map[Key, None]] | None = None,
        row_sum: int = 0,
        history: Head = BEGINNING,
    ) -> None:
        self.schema = schema
        self.version = version
        self.history = history
        self._sum = row_sum
        self._tables: Map[str, Map[Key, Cell]] = tables if tables is not None else Map()
        self._indexes: Map[_IndexKey, Map[Key, None]] = indexes if indexes is not None else Map()

    def get(self, table: Table[R], *key: str) -> R | None:
        cell = self._rows(table.name).get(key)
        return None if cell is None else cell.value(table)

    def scan(self, table: Table[R]) -> Iterator[R]:
        """Every row of the table, in key order."""
        rows = self._rows(table.name)
        for key in sorted(rows):
            yield rows[key].value(table)

    def keys(self, table: Table[Any]) -> Iterator[Key]:
        """Of every row, in no order, also of those that cannot be read."""
        return iter(self._rows(table.name).keys())

    def find(self, table: Table[R], index: str, value: str) -> list[R]:
        """The rows whose index has this value, in key order."""
        if index not in table.indexes:
            raise KeyError(f"{table} has no index {index}")
        rows = self._rows(table.name)
        keys = self._indexes.get((table.name, index, value))
        return [rows[key].value(table) for key in sorted(keys)] if keys is not None else []

    def count(self, table: Table[Any]) -> int:
        return len(self._rows(table.name))

    def has_same(self, other: "State", *tables: Table[Any]) -> bool:
        """Whether nothing has changed in these tables between the two states. Never wrongly True."""
        return all(
            self._tables.get(table.name) is other._tables.get(table.name) for table in tables
        )

    def cell(self, table: str, key: Key) -> Cell | None:
        return self._rows(table).get(key)

    def raw(self, table: str, key: Key) -> bytes | None:
        cell = self._rows(table).get(key)
        return None if cell is None else cell.raw

    def raw_rows(self) -> Iterator[tuple[str, Key, bytes]]:
        """Everything, table by table, lazily and in no order: sorting many keys stops the loop."""
        for name in sorted(self._tables):
            for key, cell in self._tables[name].items():
                yield name, key, cell.raw

    @property
    def row_count(self) -> int:
        return sum(len(rows) for rows in self._tables.values())

    @property
    def cluster_version(self) -> int:
        """The schema version that all masters have (see `versions`)."""
        return self.schema.cluster_version(self)

    @property
    def digest(self) -> bytes:
        """The same for equal rows and an equal history, whatever the order they came in."""
        held = self._sum.to_bytes(DIGEST_BYTES, "little"), *self.history
        return blake2b(_encode(held), digest_size=DIGEST_BYTES).digest()

    def changed(self, table: str, key: Key, raw: bytes | None, value: Any = None) -> "State":
        """The state with one row written (or removed, raw=None), at the same version.

        `value` may be given if `raw` is just its encoding.
        """
        rows = self._rows(table)
        before = rows.get(key)
        row_sum = self._sum if before is None else self._sum - before.share
        cell = None
        if raw is not None:
            cell = Cell(raw, _share(table, key, raw), value)
            rows = rows.set(key, cell)
            row_sum += cell.share
        elif before is not None:
            rows = rows.delete(key)
        return State(
            self.schema,
            self.version,
            self._tables.set(table, rows),
            self._reindexed(table, key, before, cell),
            row_sum & _SUM_MASK,
            self.history,
        )

    def at(self, version: int, history: Head) -> "State":
        """The same rows as this version of the state, with what is recorded up to it."""
        return State(self.schema, version, self._tables, self._indexes, self._sum, history)

    def _rows(self, table: str) -> Map[Key, Cell]:
        rows = self._tables.get(table)
        return rows if rows is not None else Map()

    def _reindexed(
        self, name: str, key: Key, before: Cell | None, after: Cell | None
    ) -> Map[_IndexKey, Map[Key, None]]:
        indexes = self._indexes
        table = self.schema.get(name)
        if table is None or not table.indexes:
            return indexes
        old = _index_values(table, before)
        new = _index_values(table, after)
        for index in table.indexes:
            was, now = old.get(index), new.get(index)
            if was == now:
                continue
            if was is not None:
                slot = (name, index, was)
                keys = indexes[slot].delete(key)
                indexes = indexes.set(slot, keys) if keys else indexes.delete(slot)
            if now is not None:
                slot = (name, index, now)
                indexes = indexes.set(slot, indexes.get(slot, Map()).set(key, None))
        return indexes


class StateBuilder:
    """A state made of many rows, in place: without a new map for each, and nobody sees it before the end.

    Rows that are just those of `present` are shared with it: most of a state that is made to replace
    another one, which then takes no second memory, nor long to let go of.
    """

    def __init__(self, present: State) -> None:
        self._present = present
        self._schema = present.schema
        self._sum = 0
        self._tables: dict[str, MapMutation[Key, Cell]] = {}
        self._indexes: dict[_IndexKey, MapMutation[Key, None]] = {}
        self.row_count = 0

    def add(self, name: str, key: Key, raw: bytes) -> None:
        """Raises ValueError if the row is there already."""
        rows = self._tables.get(name)
        if rows is None:
            rows = self._tables[name] = Map[Key, Cell]().mutate()
        elif key in rows:
            raise ValueError(f"row {key} of table {name} is there twice")
        cell = self._present.cell(name, key)
        if cell is None or cell.raw != raw:
            cell = Cell(raw, _share(name, key, raw))
        rows[key] = cell
        self._sum += cell.share
        self.row_count += 1
        table = self._schema.get(name)
        if table is not None and table.indexes:
            for index, value in _index_values(table, cell).items():
                if value is not None:
                    self._index((name, index, value), key)

    def state(self, version: int, history: Head) -> State:
        """Once, at the end."""
        tables = Map({name: rows.finish() for name, rows in self._tables.items()})
        indexes = Map({slot: keys.finish() for slot, keys in self._indexes.items()})
        return State(self._schema, version, tables, indexes, self._sum & _SUM_MASK, history)

    def _index(self, slot: _IndexKey, key: Key) -> None:
        keys = self._indexes.get(slot)
        if keys is None:
            keys = self._indexes[slot] = Map[Key, None]().mutate()
        keys[key] = None


def _share(table: str, key: Key, raw: bytes) -> int:
    row = _encode((table, key, raw))
    return int.from_bytes(blake2b(row, digest_size=DIGEST_BYTES).digest(), "little")


def _index_values(table: Table[Any], cell: Cell | None) -> dict[str, str | None]:
    if cell is None:
        return {}
    try:
        row = cell.value(table)
    except msgspec.MsgspecError:
        return {}
    return {index: value_of(row) for index, value_of in table.indexes.items()}
