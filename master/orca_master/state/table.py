"""Tables: the kinds of rows that the state holds, their keys and their indexes.

A row is a frozen `msgspec.Struct`; in the log, the state and snapshots it is its msgpack bytes.
"""

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import msgspec

from orca_master.state.newer import keep_unknown

R = TypeVar("R", bound=msgspec.Struct)

Key = tuple[str, ...]

_encoder = msgspec.msgpack.Encoder(order="deterministic")


class Table(Generic[R]):
    """`key` and the indexes are functions of the row alone. An index of None leaves the row out."""

    def __init__(
        self,
        name: str,
        row_type: type[R],
        *,
        key: Callable[[R], Key],
        indexes: Mapping[str, Callable[[R], str | None]] | None = None,
    ) -> None:
        self.name = name
        self.row_type = row_type
        self.key = key
        self.indexes = dict(indexes or {})
        self._decoder = msgspec.msgpack.Decoder(row_type)

    def encode(self, row: R) -> bytes:
        return _encoder.encode(row)

    def decode(self, raw: bytes) -> R:
        return self._decoder.decode(raw)

    def kept_over(self, before: bytes, after: bytes) -> bytes:
        """`after`, with what `before` has that this table's rows do not know (see `newer`)."""
        try:
            if _encoder.encode(self._decoder.decode(before)) == before:
                return after  # nothing unknown: the usual case, and the quick one
        except msgspec.MsgspecError:
            return after  # not readable here at all: the new row replaces it
        return keep_unknown(self.row_type, before, after)

    def __repr__(self) -> str:
        return f"Table({self.name})"


class Schema:
    """All tables that this master knows, by name."""

    def __init__(self, *tables: Table[Any]) -> None:
        self.tables: dict[str, Table[Any]] = {table.name: table for table in tables}
        if len(self.tables) != len(tables):
            raise ValueError("two tables share a name")

    def get(self, name: str) -> Table[Any] | None:
        return self.tables.get(name)
