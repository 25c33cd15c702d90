"""The history's file: SQLite, written in the order of the log, with what is missing marked as a gap.

Blocking, and for one caller at a time; `keeper` sees to that. An entry's events are there all or not
at all. A commit is durable only after `sync`: until then the log brings again what a crash took.
"""

import errno
import os
import posixpath
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from orca_common.env import Disk
from orca_master.state.history.event import BEGINNING, Event, Head, head_after, verified

FORMAT = 1
CHECKED_AT_START = 1_000

Position = tuple[int, int]
"""(version, n) of an event."""

_COLUMNS = "version, n, kind, subject, data, chain"
_TABLE = """(version INTEGER NOT NULL, n INTEGER NOT NULL, kind TEXT NOT NULL, subject TEXT NOT NULL,
    data BLOB NOT NULL, chain BLOB NOT NULL, PRIMARY KEY (version, n)) WITHOUT ROWID"""
_SCHEMA = f"""
BEGIN;
CREATE TABLE events {_TABLE};
CREATE INDEX events_by_kind ON events (kind, version, n);
CREATE INDEX events_by_subject ON events (subject, version, n);
CREATE TABLE arriving {_TABLE};
CREATE TABLE gap (after_version INTEGER, after_chain BLOB, version INTEGER, chain BLOB);
CREATE TABLE durable (version INTEGER);
PRAGMA user_version = {FORMAT};
COMMIT;
"""
_INSERT = "INSERT INTO {} (" + _COLUMNS + ") VALUES (?, ?, ?, ?, ?, ?)"


class DamagedHistory(Exception):
    """The file is not what was written, or not the history of this log."""


class Batch(NamedTuple):
    """The events of one entry, and where the history stood before them."""

    before: Head
    events: Sequence[Event]

    @property
    def after(self) -> Head:
        return head_after(self.before, self.events)


Step = Batch | Head
"""What the log brings: an entry's events, or a snapshot after which the history stands at `Head`."""


class Gap(NamedTuple):
    """Events behind `after`, up to and with `up_to`, that other masters have and this one has not."""

    after: Head
    up_to: Head


class HistoryFile:
    """Every verb raises DamagedHistory, and OSError (ENOSPC for a full disk; nothing was done)."""

    def __init__(self, disk: Disk, path: str) -> None:
        is_new = not disk.exists(path)
        self.path = path
        self.last = BEGINNING
        self.gap: Gap | None = None
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            with _translated(path):
                self._open(is_new)
        except BaseException:
            self._db.close()
            raise
        if is_new:
            disk.sync_folder(posixpath.dirname(path))

    def close(self) -> None:
        self._db.close()

    def take(self, steps: Sequence[Step]) -> None:
        """Write what is new of the steps, all or nothing; what is known already must be the same."""
        last, gap = self.last, self.gap
        try:
            with self._transaction():
                for step in steps:
                    if isinstance(step, Batch):
                        self._append(step)
                    else:
                        self._jump(step)
        except BaseException:
            self.last, self.gap = last, gap
            raise

    def sync(self) -> None:
        """Make durable whatever was taken."""
        with _translated(self.path):
            self._db.execute("PRAGMA synchronous = FULL")
        try:
            with self._transaction():  # its commit syncs the write-ahead log, all of it
                self._db.execute("DELETE FROM durable")
                self._db.execute("INSERT INTO durable VALUES (?)", (self.last.version,))
        finally:
            self._db.execute("PRAGMA synchronous = NORMAL")

    def select(
        self,
        *,
        kind: str | None = None,
        subject: str | None = None,
        after: Position | None = None,
        before: Position | None = None,
        limit: int,
        newest_first: bool = True,
    ) -> list[Event]:
        """At most `limit` events between two positions, neither of them included."""
        tests = {
            "kind = ?": None if kind is None else (kind,),
            "subject = ?": None if subject is None else (subject,),
            "(version, n) > (?, ?)": after,
            "(version, n) < (?, ?)": before,
        }
        given = {test: values for test, values in tests.items() if values is not None}
        where = f"WHERE {' AND '.join(given)}" if given else ""
        order = "DESC" if newest_first else "ASC"
        values = [value for group in given.values() for value in group]
        with _translated(self.path):
            rows = self._db.execute(
                f"SELECT {_COLUMNS} FROM events {where}"
                f" ORDER BY version {order}, n {order} LIMIT ?",
                [*values, limit],
            )
            return [Event(*row) for row in rows]

    # A gap is filled: events arrive where nobody sees them, and are shown when all are there.

    def arrive(self, events: Sequence[Event]) -> None:
        with self._transaction():
            self._db.executemany(_INSERT.format("arriving"), events)

    def forget_arrived(self) -> None:
        with self._transaction():
            self._db.execute("DELETE FROM arriving")

    def close_gap(self, gap: Gap) -> None:
        """Show what has arrived, which the caller has verified; unless the gap is another now."""
        if gap != self.gap:
            return
        with self._transaction():
            self._db.execute(f"INSERT INTO events SELECT {_COLUMNS} FROM arriving")
            self._db.execute("DELETE FROM arriving")
            self._db.execute("DELETE FROM gap")
        self.gap = None

    def _open(self, is_new: bool) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        (known,) = self._db.execute("PRAGMA user_version").fetchone()
        if known > FORMAT:
            raise OSError(
                errno.EINVAL, f"a newer version wrote it (format {known}): install that", self.path
            )
        if known == 0 and not self._db.execute("SELECT 1 FROM sqlite_master").fetchone():
            self._db.executescript(_SCHEMA)
        elif known == 0:
            raise DamagedHistory(f"{self.path} is a database, but not a history")
        row = self._db.execute("SELECT * FROM gap").fetchone()
        if row is not None:
            self.gap = Gap(Head(row[0], row[1]), Head(row[2], row[3]))
            self.last = self.gap.up_to
        self._db.execute("DELETE FROM arriving")
        self._check_end()

    def _check_end(self) -> None:
        """Verify the newest events against their chain, and stand behind them."""
        start = (self.last.version + 1, 0) if self.gap else None
        newest = self.select(after=start, limit=CHECKED_AT_START + 1)[::-1]
        if not newest:
            return
        chain = self.last.chain
        if len(newest) > CHECKED_AT_START:
            chain = newest.pop(0).chain
        try:
            *_, end = verified(chain, newest)
        except ValueError as error:
            raise DamagedHistory(f"{self.path} is damaged: {error}") from error
        self.last = Head(end.version, end.chain)

    def _append(self, batch: Batch) -> None:
        if batch.before == self.last:
            self._db.executemany(_INSERT.format("events"), batch.events)
            self.last = batch.after
        elif not self._knows(batch.after):
            raise DamagedHistory(
                f"{self.path} is not the history of this log: it ends at version"
                f" {self.last.version}, and does not hold what the log has at {batch.after.version}"
            )

    def _jump(self, head: Head) -> None:
        if self._knows(head):
            return
        if head.version <= self.last.version:
            raise DamagedHistory(
                f"{self.path} is not the history of this log: it differs at version {head.version}"
            )
        self.gap = Gap(self.gap.after if self.gap else self.last, head)
        self.last = head
        # What lay above an older gap is fetched with it.
        self._db.execute("DELETE FROM events WHERE version > ?", (self.gap.after.version,))
        self._db.execute("DELETE FROM gap")
        self._db.execute("INSERT INTO gap VALUES (?, ?, ?, ?)", (*self.gap.after, *self.gap.up_to))

    def _knows(self, head: Head) -> bool:
        """Whether the history up to there is here, or will be when the gap is filled."""
        if head in (BEGINNING, self.last):
            return True
        if self.gap and self.gap.after.version < head.version < self.gap.up_to.version:
            return True
        if self.gap and head == self.gap.up_to:
            return True
        found = self._db.execute(
            "SELECT chain FROM events WHERE version = ? ORDER BY n DESC LIMIT 1", (head.version,)
        ).fetchone()
        return found is not None and found[0] == head.chain

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with _translated(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


def set_aside(disk: Disk, path: str) -> str:
    """Rename a closed file, with what belongs to it, and return its new name."""
    number = 1
    while disk.exists(aside := f"{path}.damaged-{number}"):
        number += 1
    for suffix in ("-wal", "-shm", ""):
        if disk.exists(path + suffix):
            disk.rename(path + suffix, aside + suffix)
    disk.sync_folder(posixpath.dirname(path))
    return aside


_SYSTEM_ERRORS = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_CANTOPEN: errno.EIO,
    sqlite3.SQLITE_READONLY: errno.EROFS,
}
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


@contextmanager
def _translated(path: str) -> Iterator[None]:
    """SQLite's errors as what they mean: damage, or trouble with the disk."""
    try:
        yield
    except sqlite3.Error as error:
        code, text = getattr(error, "sqlite_errorcode", 0) & 0xFF, str(error)
        if code in _DAMAGE or text.startswith(("no such", "Could not decode")):
            raise DamagedHistory(f"{path} is damaged: {error}") from error
        if code in _SYSTEM_ERRORS:
            number = _SYSTEM_ERRORS[code]
            raise OSError(number, f"{os.strerror(number)} ({error})", path) from error
        raise
