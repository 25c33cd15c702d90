"""Tables: the kinds of rows that the state holds, their keys and their indexes.

A row is a frozen `msgspec.Struct`; in the log, the state and snapshots it is its msgpack bytes.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from orca_master.state.newer import keep_unknown

R = TypeVar("R", bound=msgspec.Struct)

Key = tuple[str, ...]

_encoder = msgspec.msgpack.Encoder(order="deterministic")


class View(Protocol):
    """What a pure rule or a query needs: a `State` or a transaction."""

    def get(self, table: "Table[R]", *key: str) -> R | None: ...
    def scan(self, table: "Table[R]") -> Iterator[R]: ...
    def find(self, table: "Table[R]", index: str, value: str) -> list[R]: ...


class Table(Generic[R]):
    """`key` and the indexes are functions of the row alone. An index of None leaves the row out.

    `since` is the schema version that brought the table, `fields_since` those that brought some of
    its fields. While the cluster's version is lower, the table is not written, and the fields are
    left out, that is, at their defaults. `blobs` names the blobs that a row refers to.
    """

    def __init__(
        self,
        name: str,
        row_type: type[R],
        *,
        key: Callable[[R], Key],
        indexes: Mapping[str, Callable[[R], str | None]] | None = None,
        since: int = 1,
        fields_since: Mapping[str, int] | None = None,
        blobs: Callable[[R], Iterable[str]] | None = None,
    ) -> None:
        self.name = name
        self.row_type = row_type
        self.key = key
        self.indexes = dict(indexes or {})
        self.blobs = blobs
        self.since = since
        self.fields_since = dict(fields_since or {})
        self._defaults = _defaults(row_type, self.fields_since)
        self._decoder = msgspec.msgpack.Decoder(row_type)

    @property
    def is_gated(self) -> bool:
        """Whether writing it depends on the cluster's version."""
        return self.since > 1 or bool(self.fields_since)

    def encode(self, row: R) -> bytes:
        return _encoder.encode(row)

    def decode(self, raw: bytes) -> R:
        return self._decoder.decode(raw)

    def without_newer_fields(self, row: R, cluster_version: int) -> R:
        """The row with those fields at their defaults that came after the cluster's version."""
        newer = {
            name: self._defaults[name]
            for name, since in self.fields_since.items()
            if since > cluster_version
        }
        return msgspec.structs.replace(row, **newer) if newer else row

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


def _defaults(row_type: type[msgspec.Struct], names: Collection[str]) -> dict[str, Any]:
    fields = {field.name: field for field in msgspec.structs.fields(row_type)}
    if unknown := [name for name in names if name not in fields or fields[name].required]:
        raise ValueError(f"{row_type.__name__} has no such field with a default: {unknown}")
    if names and not row_type.__struct_config__.omit_defaults:
        raise ValueError(f"{row_type.__name__} must leave out fields that are at their defaults")
    return {
        name: fields[name].default
        if fields[name].default is not msgspec.NODEFAULT
        else fields[name].default_factory()
        for name in names
    }


class Schema:
    """All tables that this master knows, by name; `version` is raised with what is added to them.

    `cluster_version` reads from the state which version all masters have (see `versions`). Without
    it there are no others, and this master's version is the cluster's.
    """

    def __init__(
        self,
        *tables: Table[Any],
        version: int = 1,
        cluster_version: Callable[[View], int] | None = None,
    ) -> None:
        self.version = version
        self.cluster_version = cluster_version or (lambda _: version)
        self.tables: dict[str, Table[Any]] = {table.name: table for table in tables}
        if len(self.tables) != len(tables):
            raise ValueError("two tables share a name")
        for table in tables:
            newest = max(table.since, *table.fields_since.values(), 1)
            if newest > version:
                raise ValueError(f"{table} is of version {newest}, the schema of {version}")

    def get(self, name: str) -> Table[Any] | None:
        return self.tables.get(name)
