"""The entries on disk: append-only files, each named by the index of its first record.

A group of records is one write and one fdatasync. A file that has reached its limit is followed by
a new one; whole old ones are removed when snapshots make them needless. Nothing is ever rewritten,
so after a crash only the end of the last file can be incomplete: that end was never acknowledged
and is cut. Damage anywhere else is never repaired by guessing: `DamagedLog`.

Used by `log`, where a record is an entry, and by the journal of the Raft log, where a record is a
step of that journal, numbered by its place in it.
"""

import itertools
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Lock

from orca_common.env import AppendFile, Env
from orca_common.logs import get_logger
from orca_master.state.log import DamagedLog, LogFailed
from orca_master.state.solo import records
from orca_master.state.solo.records import HEADER_BYTES, LOG_MAGIC, Record
from orca_master.state.space import is_full

SUFFIX = ".log"
WHAT_TO_DO = (
    "Do not start on it: stop, copy the folder, then restore it from a backup; "
    "or, to begin with nothing, move it away."
)

log = get_logger("state.solo")


class NoSpace(Exception):
    """The disk is full. What was begun has been taken back; asking again later may help."""


@dataclass(frozen=True, slots=True)
class Entry:
    index: int
    term: int
    payload: bytes


class Segments:
    """`create` or `replay` first, then `append`. One call at a time may come from another thread."""

    def __init__(self, env: Env, folder: str, *, segment_bytes: int) -> None:
        self._env = env
        self._disk = env.disk
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._firsts = _first_indexes(self._disk.list(folder))
        self._file: AppendFile | None = None
        self._seed = 0
        self._size = 0
        self._is_durable = True
        # Also held by `close`: a sync that goes on in a thread must not lose its file to another.
        self._lock = Lock()

    @property
    def exist(self) -> bool:
        return bool(self._firsts)

    @property
    def firsts(self) -> tuple[int, ...]:
        """The index that each file begins with, in order."""
        return tuple(self._firsts)

    def hold_records(self) -> bool:
        return any(len(self._disk.read(self._path(first))) > HEADER_BYTES for first in self._firsts)

    def cover(self, after: int) -> bool:
        """Whether the files begin early enough to hold every entry after this index."""
        return bool(self._firsts) and self._firsts[0] <= after + 1

    def create(self) -> None:
        """The first file of a new log; remains of an attempt that was cut short are removed."""
        for first in self._firsts:
            self._disk.remove(self._path(first))
        self._firsts = []
        self._begin(1)

    def replay(self, after: int) -> Iterator[Record]:
        """Every record after this index, in order; exhaust it, then appending may go on.

        Raises DamagedLog. An incomplete end is cut, and what was found is made durable: a process
        that was killed may have left it in the system's memory only.
        """
        self._drop_unfinished_file()
        needed = [
            first
            for first, following in itertools.zip_longest(self._firsts, self._firsts[1:])
            if following is None or following > after + 1
        ]
        if not needed or needed[0] > after + 1:
            raise self._damaged(
                self._path(self._firsts[0]) if self._firsts else self._folder,
                0,
                f"the entries from {after + 1} on are missing",
            )
        last = needed[0] - 1
        term = 0
        for first in needed:
            if first != last + 1:
                raise self._damaged(self._path(first), 0, f"entries {last + 1} on are missing")
            for record in self._read(first, is_last=first == needed[-1], needed_up_to=after):
                if record.term < term:
                    raise self._damaged(self._path(first), record.end, "terms go backwards")
                last, term = record.index, record.term
                if last > after:
                    yield record

    def append(self, entries: Sequence[Entry]) -> None:
        """Make the entries durable: all, or (NoSpace) none. LogFailed: nobody knows; stop."""
        with self._lock:
            self._take(entries)
            self._make_durable()

    def write(self, entries: Sequence[Entry]) -> None:
        """Hand the entries to the system: all, or (NoSpace) none. They are durable after `sync`."""
        with self._lock:
            self._take(entries)

    def sync(self) -> None:
        """Make durable what was written. LogFailed: nobody knows; stop."""
        with self._lock:
            self._make_durable()

    def is_full_for(self, entries: Sequence[Entry]) -> bool:
        """Whether a new file will be begun for these entries."""
        size = sum(records.RECORD_BYTES + len(entry.payload) for entry in entries)
        return self._size > HEADER_BYTES and self._size + size > self._segment_bytes

    def drop_up_to(self, index: int) -> None:
        """Remove the files that hold nothing after this index. The last one always stays.

        The oldest first, and each for good before the next: a power loss leaves no gap.
        """
        with self._lock:
            while len(self._firsts) > 1 and self._firsts[1] <= index + 1:
                self._disk.remove(self._path(self._firsts[0]))
                del self._firsts[0]
                self._disk.sync_folder(self._folder)

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _take(self, entries: Sequence[Entry]) -> None:
        if self._file is None:
            raise LogFailed("the log is closed")
        if self.is_full_for(entries):
            self._make_durable()
            self._begin(entries[0].index)
        data = self._encode(entries)
        # Also when it fails: what was begun is cut off again, and that must be durable before a next
        # file is begun, or a power loss leaves half a record in the middle of the log.
        self._is_durable = False
        self._write(self._file, data, size_before=self._size)
        self._size += len(data)

    def _make_durable(self) -> None:
        if self._file is None:
            raise LogFailed("the log is closed")
        if not self._is_durable:
            _sync(self._file)
            self._is_durable = True

    def _encode(self, entries: Sequence[Entry]) -> bytes:
        return b"".join(
            records.encode_record(self._seed, index=e.index, term=e.term, payload=e.payload)
            for e in entries
        )

    def _read(self, first: int, *, is_last: bool, needed_up_to: int) -> Iterator[Record]:
        path = self._path(first)
        data = self._disk.read(path)
        header = records.decode_header(LOG_MAGIC, data)
        if header is None:
            raise self._damaged(path, 0, "its header is not what was written")
        if header.index != first:
            raise self._damaged(path, 0, f"it was written as the file of entry {header.index}")
        offset, index = HEADER_BYTES, first - 1
        for record in records.decode_records(header.seed, data):
            if record.index != index + 1:
                raise self._damaged(path, offset, f"entry {record.index} follows entry {index}")
            yield record
            offset, index = record.end, record.index
        if offset < len(data):
            self._check_torn(path, data, offset, seed=header.seed, is_last=is_last)
        if is_last:
            if index < needed_up_to:
                raise self._damaged(
                    path, offset, f"it ends with entry {index}; a snapshot holds {needed_up_to}"
                )
            self._continue(path, header.seed, offset, torn=len(data) - offset)

    def _check_torn(self, path: str, data: bytes, offset: int, *, seed: int, is_last: bool) -> None:
        if not is_last:
            raise self._damaged(path, offset, "a record is not what was written, and files follow")
        following = records.find_record(seed, data, offset + 1)
        if following is not None:
            raise self._damaged(
                path,
                offset,
                f"a record is not what was written, and a whole one follows at byte {following}",
            )

    def _continue(self, path: str, seed: int, size: int, *, torn: int) -> None:
        file = self._disk.open_append(path)
        self._file, self._seed, self._size = file, seed, size
        if torn:
            log.warning(
                "cut an incomplete record off the end of the log; it was never acknowledged",
                file=path,
                offset=size,
                bytes=torn,
            )
            file.truncate(size)
        _sync(file)
        self._disk.sync_folder(self._folder)

    def _drop_unfinished_file(self) -> None:
        """A crash may leave the newest file without its header; records come only after that."""
        if len(self._firsts) < 2:
            return
        path = self._path(self._firsts[-1])
        data = self._disk.read(path)
        if len(data) <= HEADER_BYTES and records.decode_header(LOG_MAGIC, data) is None:
            log.warning("removed a log file that was only begun", file=path)
            self._disk.remove(path)
            self._disk.sync_folder(self._folder)
            del self._firsts[-1]

    def _begin(self, first: int) -> None:
        """Go over to a new file, durable and empty, before any record is written to it."""
        path = self._path(first)
        header = records.encode_header(
            LOG_MAGIC, self._env.random.token_bytes(records.SALT_BYTES), first
        )
        try:
            file = self._disk.open_append(path)
        except OSError as error:
            raise _failure(error, f"creating {path}") from error
        try:
            self._write(file, header, size_before=0)
            _sync(file)
            self._disk.sync_folder(self._folder)
        except NoSpace:
            file.close()
            self._disk.remove(path)
            raise
        if self._file is not None:
            self._file.close()
        self._file, self._seed, self._size = file, records.seed_of(header), len(header)
        self._firsts.append(first)

    def _write(self, file: AppendFile, data: bytes, *, size_before: int) -> None:
        try:
            file.write(data)
        except OSError as error:
            failure = _failure(error, "writing to the log")
            if isinstance(failure, NoSpace):
                try:
                    file.truncate(size_before)
                except OSError as second:
                    raise LogFailed(
                        f"a partly written record cannot be cut off: {second}"
                    ) from second
            raise failure from error

    def _path(self, first: int) -> str:
        return posixpath.join(self._folder, f"{first:020d}{SUFFIX}")

    def _damaged(self, path: str, offset: int, what: str) -> DamagedLog:
        return DamagedLog(f"{path} is damaged at byte {offset}: {what}. {WHAT_TO_DO}")


def _failure(error: OSError, doing: str) -> NoSpace | LogFailed:
    if is_full(error):
        return NoSpace(str(error))
    return LogFailed(f"{doing} failed: {error}")


def _sync(file: AppendFile) -> None:
    try:
        file.sync()
    except OSError as error:
        # Never tried again: the system may have dropped the pages and would answer "done".
        raise LogFailed(f"the disk did not make the log durable: {error}") from error


def _first_indexes(names: list[str]) -> list[int]:
    stems = [name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX)]
    return sorted(int(stem) for stem in stems if stem.isdecimal())
