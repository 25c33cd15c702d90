"""Snapshots on disk: the machine's captured parts, one file each, named by the last entry in it.

A snapshot is written under a temporary name in slices, each part checksummed, then synced, renamed
and its folder synced: a name without `.tmp` is a whole snapshot, or one that was damaged later. Two
are kept. Used by `log`.
"""

import asyncio
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Lock

from orca_common.env import Env
from orca_common.logs import get_logger
from orca_master.state.log import DamagedLog
from orca_master.state.solo import records
from orca_master.state.solo.records import HEADER_BYTES, SNAPSHOT_MAGIC

SUFFIX = ".snapshot"
TEMPORARY = ".tmp"
DAMAGED = ".damaged"
KEPT = 2
SLICE_BYTES = 256 << 10

log = get_logger("state.solo")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state after entry `index`, which was of `term`, as the machine captured it."""

    index: int
    term: int
    parts: list[bytes]


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
        path = self._path(index)
        writing = _Writing(self._env, path + TEMPORARY, index=index, term=term, parts=parts)
        try:
            more = True
            while more:
                more = await self._env.threads.run(writing.write_slice)
                await asyncio.sleep(0)  # threads may run inline: others get their turn all the same
            await self._env.threads.run(writing.sync)
        except OSError:
            writing.close()
            self._disk.remove(path + TEMPORARY)
            raise
        finally:
            writing.close()
        self._disk.rename(path + TEMPORARY, path)
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
        path = self._path(index)
        data = self._disk.read(path)
        header = records.decode_header(SNAPSHOT_MAGIC, data)
        if header is None or header.index != index:
            raise DamagedLog(f"{path} is damaged at byte 0: its header is not what was written.")
        parts: list[bytes] = []
        offset, term = HEADER_BYTES, 0
        for record in records.decode_records(header.seed, data):
            offset, term = record.end, record.term
            if record.index != len(parts) + 1:
                break
            if not record.payload and offset == len(data):
                return Snapshot(index, term, parts)
            parts.append(record.payload)
        raise DamagedLog(f"{path} is damaged at byte {offset}: a part is not what was written.")

    def _path(self, index: int) -> str:
        return posixpath.join(self._folder, f"{index:020d}{SUFFIX}")


class _Writing:
    """One snapshot under way. Its work runs in a thread, and `close` waits for it."""

    def __init__(
        self, env: Env, path: str, *, index: int, term: int, parts: Iterator[bytes]
    ) -> None:
        if env.disk.exists(path):
            env.disk.remove(path)
        self._file = env.disk.open_append(path)
        self._term = term
        self._parts = parts
        self._number = 0
        salt = env.random.token_bytes(records.SALT_BYTES)
        self._pending = records.encode_header(SNAPSHOT_MAGIC, salt, index)
        self._seed = records.seed_of(self._pending)
        self._is_open = True
        self._lock = Lock()

    def write_slice(self) -> bool:
        """Write the next parts; False when the last is written."""
        with self._lock:
            if not self._is_open:
                return False
            chunks = [self._pending]
            self._pending = b""
            size, more = len(chunks[0]), True
            while more and size < SLICE_BYTES:
                part = next(self._parts, None)
                more = part is not None
                if part == b"":
                    raise ValueError("a captured part is empty")
                self._number += 1
                chunks.append(
                    records.encode_record(
                        self._seed, index=self._number, term=self._term, payload=part or b""
                    )
                )
                size += len(chunks[-1])
            self._file.write(b"".join(chunks))
            return more

    def sync(self) -> None:
        with self._lock:
            if self._is_open:
                self._file.sync()

    def close(self) -> None:
        with self._lock:
            if self._is_open:
                self._file.close()
            self._is_open = False


def _indexes(names: list[str]) -> list[int]:
    stems = [name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX)]
    return sorted(int(stem) for stem in stems if stem.isdecimal())
