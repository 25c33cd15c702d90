"""A transaction: reads one state, writes rows to a draft that nobody else sees."""

from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec

from orca_master.errors import NeedsNewerMasters, NotFound, TooLarge
from orca_master.state.history.event import Record
from orca_master.state.rows import State
from orca_master.state.table import Key, Table, View

__all__ = ["MAX_BYTES", "Changes", "Transaction", "View"]

R = TypeVar("R", bound=msgspec.Struct)

MAX_BYTES = 1 << 20
"""What one transaction may write; larger work is planned outside and committed in batches."""

MAX_EVENT_BYTES = 64 << 10

_encoder = msgspec.msgpack.Encoder(order="deterministic")

Changes = dict[tuple[str, Key], bytes | None]
"""(table, key) → the row's new bytes, or None: removed."""


class Transaction:
    """Synchronous; lives only inside `Store.update`. A refusal raised inside leaves no trace."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.changes: Changes = {}
        self.records: list[Record] = []
        self.size = 0

    def get(self, table: Table[R], *key: str) -> R | None:
        return self.state.get(table, *key)

    def need(self, table: Table[R], *key: str, kind: str) -> R:
        """The row, or NotFound naming the last part of the key."""
        row = self.state.get(table, *key)
        if row is None:
            raise NotFound(kind, key[-1])
        return row

    def scan(self, table: Table[R]) -> Iterator[R]:
        return self.state.scan(table)

    def find(self, table: Table[R], index: str, value: str) -> list[R]:
        return self.state.find(table, index, value)

    def put(self, table: Table[R], row: R) -> None:
        """Write a row. Writing what is there already changes nothing; fields that a newer master
        wrote and this one does not know stay as they are.

        Raises NeedsNewerMasters if the table is newer than the oldest master; fields that are newer
        are left out.
        """
        if table.is_gated:
            row = self._allowed(table, row)
        raw = table.encode(row)
        key = table.key(row)
        before = self.state.cell(table.name, key)
        if before is None or before.is_own:
            if before is None or before.raw != raw:
                self._write(table.name, key, raw, row)
            return
        kept = table.kept_over(before.raw, raw)
        if kept != before.raw:
            self._write(table.name, key, kept, row if kept == raw else None)

    def delete(self, table: Table[Any], *key: str) -> None:
        if self.state.raw(table.name, key) is not None:
            self._write(table.name, key, None, None)

    def record(self, kind: str, subject: str, event: msgspec.Struct) -> None:
        """Add an event to the history, behind all others: what happened, and to what.

        It becomes durable with the rows of this transaction, or not at all; it never changes.
        """
        record = Record(kind, subject, _encoder.encode(event))
        size = sum(map(len, record))
        if size > MAX_EVENT_BYTES:
            raise TooLarge(f"an event is at most {MAX_EVENT_BYTES} bytes: keep the rest in a blob")
        self._count(size)
        self.records.append(record)

    def _allowed(self, table: Table[R], row: R) -> R:
        current = self.state.cluster_version
        if table.since > current:
            raise NeedsNewerMasters(f"writing {table.name}", table.since, current)
        return table.without_newer_fields(row, current)

    def _count(self, size: int) -> None:
        self.size += size
        if self.size > MAX_BYTES:
            raise TooLarge(f"one change may write at most {MAX_BYTES} bytes: split it")

    def _write(self, table: str, key: Key, raw: bytes | None, value: Any) -> None:
        self._count(sum(map(len, key)) + len(raw or b""))
        self.state = self.state.changed(table, key, raw, value)
        self.changes[table, key] = raw
