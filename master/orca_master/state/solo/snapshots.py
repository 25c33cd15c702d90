"""Snapshots on disk: the machine's captured parts, one file each, named by the last entry in it.

A snapshot is written under a temporary name in slices, each part checksummed, then synced, renamed
and its folder synced: a name without `.tmp` is a whole snapshot, or one that was damaged later. Two
are kept. One that arrives from another master is written part by part as it comes (`receive`). Used
by both logs; neither reading nor writing holds more than a few parts in memory.
"""

import asyncio
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from threading import Lock

from orca_common.env import Disk, Env
from orca_common.logs import get_logger
from orca_master.state.log import DamagedLog
from orca_master.state.solo import records
from orca_master.state.solo.records import HEADER_BYTES, SNAPSHOT_MAGIC, Record

SUFFIX = ".snapshot"
TEMPORARY = ".tmp"
ARRIVING = ".arriving" + TEMPORARY
DAMAGED = ".damaged"
KEPT = 2
SLICE_BYTES = 256 << 10

log = get_logger("state.solo")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state after entry `index`, which was of `term`, as the machine captured it.

    `parts` can be gone through several times. From a file they are read anew each time, which raises
    OSError, and DamagedLog if they are no longer what was written.
    """

    index: int
    term: int
    parts: Iterable[bytes]


class Snapshots:
    def __init__(self, env: Env, folder: str) -> None:
        self._env = env
        self._disk = env.disk
        self._folder = folder
        self._indexes = _indexes(self._disk.list(folder))

    @property
    def exist(self) -> bool:
        return bool(self._indexes)

    def newest_whole(self) -> tuple[Snapshot | None, list[DamagedLog]]:
        """The newest snapshot that is as it was written, and what is wrong with newer ones."""
        damages: list[DamagedLog] = []
        for index in reversed(self._indexes):
            try:
                return self._read(index), damages
            except DamagedLog as damage:
                damages.append(damage)
        return None, damages

    def set_aside(self, newer_than: int) -> None:
        """Take damaged snapshots out of the way, under a name that somebody can look into."""
        for index in [i for i in self._indexes if i > newer_than]:
            path = self._path(index)
            self._disk.rename(path, path + DAMAGED)
            self._indexes.remove(index)
            log.warning("set a damaged snapshot aside", file=path + DAMAGED)
        self._disk.sync_folder(self._folder)

    def remove_temporary(self) -> None:
        for name in self._disk.list(self._folder):
            if name.endswith(TEMPORARY):
                self._disk.remove(posixpath.join(self._folder, name))

    async def write(self, *, index: int, term: int, parts: Iterator[bytes]) -> None:
        """Write and keep a snapshot. Raises OSError, and then has removed what it began."""
        if index in self._indexes:
            return
        writing = self._begin(index, term, TEMPORARY)
        try:
            more = True
            while more:
                more = await self._env.threads.run(lambda: writing.take_slice(parts))
                await asyncio.sleep(0)  # threads may run inline: others get their turn all the same
            await self._env.threads.run(writing.sync)
        except OSError:
            writing.discard()
            raise
        finally:
            writing.close()
        self._publish(writing, index)

    def receive(self, *, index: int, term: int) -> "Receiving":
        """Begin to write a snapshot that arrives; it is one of ours when it is `accept`ed."""
        return Receiving(self._begin(index, term, ARRIVING), index=index, term=term)

    async def accept(self, receiving: "Receiving") -> Snapshot:
        """Make the whole of it durable and keep it. Raises OSError, and then has removed it."""
        writing, index = receiving.writing, receiving.index
        try:
            await self._env.threads.run(writing.finish)
            await self._env.threads.run(writing.sync)
        except OSError:
            writing.discard()
            raise
        finally:
            writing.close()
        if index in self._indexes:
            writing.discard()
        else:
            self._publish(writing, index)
        return Snapshot(index, receiving.term, _Parts(self._disk, self._path(index), index))

    def _begin(self, index: int, term: int, suffix: str) -> "_Writing":
        return _Writing(self._env, self._path(index) + suffix, index=index, term=term)

    def _publish(self, writing: "_Writing", index: int) -> None:
        self._disk.rename(writing.path, self._path(index))
        self._disk.sync_folder(self._folder)
        self._indexes.append(index)

    def needed_after(self) -> int:
        """The entries after this index are needed, should the newest snapshot prove damaged."""
        return self._indexes[-KEPT] if len(self._indexes) >= KEPT else 0

    def drop_old(self) -> None:
        for index in self._indexes[:-KEPT]:
            self._disk.remove(self._path(index))
        del self._indexes[:-KEPT]
        self._disk.sync_folder(self._folder)

    def _read(self, index: int) -> Snapshot:
        parts = _Parts(self._disk, self._path(index), index)
        return Snapshot(index, parts.check(), parts)

    def _path(self, index: int) -> str:
        return posixpath.join(self._folder, f"{index:020d}{SUFFIX}")


class _Parts:
    """The parts in a snapshot's file, read and checked one after the other, each time anew."""

    def __init__(self, disk: Disk, path: str, index: int) -> None:
        self._disk = disk
        self._path = path
        self._index = index

    def check(self) -> int:
        """Read all of it; returns its term. Raises DamagedLog."""
        term = 0
        for record in self._records():
            term = record.term
        return term

    def __iter__(self) -> Iterator[bytes]:
        return (record.payload for record in self._records() if record.payload)

    def _records(self) -> Iterator[Record]:
        """The last one is empty: without it, the file is cut off."""
        file = self._disk.open_read(self._path)
        try:
            head = records.read_fully(file.read, HEADER_BYTES)
            header = records.decode_header(SNAPSHOT_MAGIC, head)
            if header is None or header.index != self._index:
                raise self._damaged(0, "its header")
            offset, is_ended = HEADER_BYTES, False
            for number, record in enumerate(records.read_records(header.seed, file.read), 1):
                if is_ended or record.index != number:
                    raise self._damaged(offset, "a part")
                offset, is_ended = record.end, not record.payload
                yield record
            if not is_ended or offset != self._disk.size(self._path):
                raise self._damaged(offset, "a part")
        finally:
            file.close()

    def _damaged(self, offset: int, what: str) -> DamagedLog:
        return DamagedLog(
            f"{self._path} is damaged at byte {offset}: {what} is not what was written."
        )


class Receiving:
    """A snapshot that arrives, in pieces of its parts; blocks as a disk does."""

    def __init__(self, writing: "_Writing", *, index: int, term: int) -> None:
        self.writing = writing
        self.index = index
        self.term = term
        self._part: list[bytes] = []

    def take(self, data: bytes, *, ends_part: bool) -> None:
        """The next bytes of the present part. Raises OSError."""
        self._part.append(data)
        if ends_part:
            self.writing.take(b"".join(self._part))
            self._part = []

    def close(self) -> None:
        """Write no more; what there is goes with the next start."""
        self.writing.close()

    def discard(self) -> None:
        """It will not be whole: remove what there is."""
        self.writing.close()
        self.writing.discard()


class _Writing:
    """One snapshot under way. Its work runs in a thread, and `close` waits for it."""

    def __init__(self, env: Env, path: str, *, index: int, term: int) -> None:
        self.path = path
        self._disk = env.disk
        self.discard()
        self._file = env.disk.open_append(path)
        self._term = term
        self._number = 0
        salt = env.random.token_bytes(records.SALT_BYTES)
        self._pending = records.encode_header(SNAPSHOT_MAGIC, salt, index)
        self._seed = records.seed_of(self._pending)
        self._is_open = True
        self._lock = Lock()

    def take_slice(self, parts: Iterator[bytes]) -> bool:
        """Write the next parts; False when the last is written, and that it is the last."""
        with self._lock:
            if not self._is_open:
                return False
            chunks: list[bytes] = []
            size, more = 0, True
            while more and size < SLICE_BYTES:
                part = next(parts, None)
                more = part is not None
                chunks.append(self._record(part) if part is not None else self._end())
                size += len(chunks[-1])
            self._write(b"".join(chunks))
            return more

    def take(self, part: bytes) -> None:
        with self._lock:
            if self._is_open:
                self._write(self._record(part))

    def finish(self) -> None:
        """That was the last part."""
        with self._lock:
            if self._is_open:
                self._write(self._end())

    def sync(self) -> None:
        with self._lock:
            if self._is_open:
                self._file.sync()

    def close(self) -> None:
        with self._lock:
            if self._is_open:
                self._file.close()
            self._is_open = False

    def discard(self) -> None:
        """Remove the file, if it is there."""
        if self._disk.exists(self.path):
            self._disk.remove(self.path)

    def _record(self, part: bytes) -> bytes:
        if not part:
            raise ValueError("a captured part is empty")
        return self._encoded(part)

    def _end(self) -> bytes:
        return self._encoded(b"")

    def _encoded(self, payload: bytes) -> bytes:
        self._number += 1
        return records.encode_record(
            self._seed, index=self._number, term=self._term, payload=payload
        )

    def _write(self, data: bytes) -> None:
        pending, self._pending = self._pending, b""
        self._file.write(pending + data)


def _indexes(names: list[str]) -> list[int]:
    stems = [name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX)]
    return sorted(int(stem) for stem in stems if stem.isdecimal())
