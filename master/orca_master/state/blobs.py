"""Blobs: bytes too large for rows, in files named by their SHA-256. Rows hold the name.

`<folder>/ab/<sha256>`. A blob is written under a temporary name, synced, and renamed: a name that is
a hash is a whole blob, or one that was damaged later. Reading verifies; a damaged one counts as
missing and is fetched from another master. What no row refers to is collected after a while.
"""

import hashlib
import posixpath
import re
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Protocol

from orca_common.env import AppendFile, Env, ReadFile
from orca_common.logs import get_logger
from orca_master.errors import NotFound, OrcaError, StorageFull, TooLarge
from orca_master.state.rows import State
from orca_master.state.space import is_full
from orca_master.state.versions import check_not_older

TEMPORARY = ".tmp"
SHELF_DIGITS = 2
MAX_BLOB_BYTES = 1 << 30
PIECE_BYTES = 1 << 20

log = get_logger("state.blobs")

_NAME = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Blob:
    """`size` in bytes."""

    sha256: str
    size: int


class BlobSource(Protocol):
    """Another master's blobs, as they are asked for."""

    @property
    def name(self) -> str: ...

    def blob(self, sha256: str) -> AsyncIterator[bytes]:
        """The blob in pieces. Raises NotFound, and whatever its transport raises (OSError)."""
        ...


class Blobs:
    """One per folder. `sources` are the other masters at the time."""

    def __init__(
        self,
        env: Env,
        folder: str,
        *,
        sources: Callable[[], Sequence[BlobSource]] = lambda: (),
    ) -> None:
        self._env = env
        self._disk = env.disk
        self._folder = folder
        self._sources = sources
        # Held for what a collection must not come between: a blob's name, and its time below.
        self._names = Lock()
        self._unreferenced_since: dict[str, float] = {}

    async def start(self) -> None:
        """Make the folder, and remove what was left half-written. Raises OSError."""
        await self._env.threads.run(self._clean)

    async def put(
        self,
        pieces: AsyncIterable[bytes],
        *,
        expected: str | None = None,
        most_bytes: int = MAX_BLOB_BYTES,
    ) -> Blob:
        """Store the bytes; they are durable when this returns. What is there already is replaced.

        Raises TooLarge, StorageFull, ValueError if the hash is not the `expected` one, whatever
        `pieces` raises, and OSError. Then nothing is left of it.
        """
        run = self._env.threads.run
        incoming = _Incoming(self._env, posixpath.join(self._folder, self._env.new_id()))
        try:
            await run(incoming.create)
            async for piece in pieces:
                if incoming.size + len(piece) > most_bytes:
                    raise TooLarge(f"a blob is at most {most_bytes} bytes here")
                await run(partial(incoming.add, piece))
            sha256 = await run(incoming.finish)
            if expected is not None and sha256 != expected:
                raise ValueError(f"the bytes are those of {sha256}, not of {expected}")
            await run(partial(self._publish, incoming.path, sha256))
            return Blob(sha256, incoming.size)
        except OSError as error:
            if not is_full(error):
                raise
            raise StorageFull("the master's disk is full; nothing was stored") from error
        finally:
            incoming.discard()

    async def get(self, sha256: str) -> AsyncIterator[bytes]:
        """The blob in pieces, after all of it is verified; fetched if it is missing or damaged.

        Raises NotFound if nobody has it whole, ValueError if the name is no hash, StorageFull.
        """
        if not await self._env.threads.run(partial(self._is_whole, sha256)):
            await self.fetch(sha256)
        async for piece in self._pieces(sha256):
            yield piece

    async def own(self, sha256: str) -> AsyncIterator[bytes]:
        """As `get`, for another master: what is not here whole is NotFound, nobody else is asked."""
        if not await self._env.threads.run(partial(self._is_whole, sha256)):
            raise NotFound("blob", sha256)
        async for piece in self._pieces(sha256):
            yield piece

    async def _pieces(self, sha256: str) -> AsyncIterator[bytes]:
        file = await self._env.threads.run(partial(self._open_kept, sha256))
        try:
            while piece := await self._env.threads.run(partial(file.read, PIECE_BYTES)):
                yield piece
        finally:
            file.close()

    async def has(self, sha256: str) -> bool:
        """Whether it is here (not verified). It is not collected for a grace time from now."""
        return await self._env.threads.run(partial(self._keep, sha256))

    async def fetch(self, sha256: str) -> Blob:
        """Get it from another master. Raises NotFound if none gives it, StorageFull."""
        path_of(self._folder, sha256)
        for source in self._sources():
            try:
                return await self.put(source.blob(sha256), expected=sha256)
            except StorageFull:
                raise
            except (OSError, OrcaError, ValueError) as error:
                log.warning(
                    "no blob from a master", blob=sha256, source=source.name, why=str(error)
                )
        raise NotFound("blob", sha256)

    async def all(self) -> list[Blob]:
        """Every blob that is here (not verified), in the order of names."""

        def listed() -> list[Blob]:
            return [Blob(sha256, self._disk.size(path)) for sha256, path in self._each()]

        return await self._env.threads.run(listed)

    async def collect(self, referenced: Collection[str], *, grace_seconds: float) -> list[str]:
        """Remove what was not referenced for so long, in every call and in between; their names.

        The time runs from the first call that found it so, or from the last `put`, `has` or `get`: no
        clock of the disk is asked, and after a restart all of them have the grace again.
        """
        return await self._env.threads.run(partial(self._collect, referenced, grace_seconds))

    # In a worker thread.

    def _clean(self) -> None:
        self._disk.make_folders(self._folder)
        for name in self._disk.list(self._folder):
            if name.endswith(TEMPORARY):
                self._disk.remove(posixpath.join(self._folder, name))

    def _publish(self, temporary: str, sha256: str) -> None:
        path = path_of(self._folder, sha256)
        shelf = posixpath.dirname(path)
        if not self._disk.exists(shelf):
            self._disk.make_folders(shelf)
            self._disk.sync_folder(self._folder)
        with self._names:
            self._disk.rename(temporary, path)
            self._unreferenced_since.pop(sha256, None)
        self._disk.sync_folder(shelf)

    def _keep(self, sha256: str) -> bool:
        with self._names:
            self._unreferenced_since.pop(sha256, None)
            return self._disk.exists(path_of(self._folder, sha256))

    def _open_kept(self, sha256: str) -> ReadFile:
        with self._names:
            self._unreferenced_since.pop(sha256, None)
            return self._disk.open_read(path_of(self._folder, sha256))

    def _is_whole(self, sha256: str) -> bool:
        try:
            file = self._open_kept(sha256)
        except FileNotFoundError:
            return False
        digest = hashlib.sha256()
        try:
            while piece := file.read(PIECE_BYTES):
                digest.update(piece)
        except OSError as error:
            log.error("a blob cannot be read", blob=sha256, why=str(error))
            return False
        finally:
            file.close()
        if digest.hexdigest() != sha256:
            log.error("a blob is damaged", blob=sha256)
            return False
        return True

    def _each(self) -> Iterator[tuple[str, str]]:
        for shelf in self._disk.list(self._folder):
            if len(shelf) == SHELF_DIGITS:
                for name in self._disk.list(posixpath.join(self._folder, shelf)):
                    if _NAME.fullmatch(name):
                        yield name, posixpath.join(self._folder, shelf, name)

    def _collect(self, referenced: Collection[str], grace_seconds: float) -> list[str]:
        removed: dict[str, str] = {}
        now = self._env.monotonic()
        for sha256, path in list(self._each()):
            with self._names:
                if sha256 in referenced:
                    self._unreferenced_since.pop(sha256, None)
                elif now - self._unreferenced_since.setdefault(sha256, now) >= grace_seconds:
                    self._disk.remove(path)
                    del self._unreferenced_since[sha256]
                    removed[sha256] = posixpath.dirname(path)
        for shelf in sorted(set(removed.values())):
            self._disk.sync_folder(shelf)
        return list(removed)


class _Incoming:
    """A blob under way. Its work runs in threads; `discard` waits for it, and may come at any time."""

    def __init__(self, env: Env, stem: str) -> None:
        self.path = stem + TEMPORARY
        self.size = 0
        self._disk = env.disk
        self._digest = hashlib.sha256()
        self._file: AppendFile | None = None
        self._is_discarded = False
        self._lock = Lock()

    def create(self) -> None:
        with self._lock:
            if not self._is_discarded:
                self._file = self._disk.open_append(self.path)

    def add(self, piece: bytes) -> None:
        with self._lock:
            if self._file is not None:
                self._file.write(piece)
                self._digest.update(piece)
                self.size += len(piece)

    def finish(self) -> str:
        with self._lock:
            if self._file is not None:
                self._file.sync()
            return self._digest.hexdigest()

    def discard(self) -> None:
        with self._lock:
            self._is_discarded = True
            if self._file is not None:
                self._file.close()
                self._file = None
                with suppress(FileNotFoundError):  # it was published
                    self._disk.remove(self.path)


def path_of(folder: str, sha256: str) -> str:
    """Where a blob lies. Raises ValueError if the name is no hash."""
    if not _NAME.fullmatch(sha256):
        raise ValueError("a blob is named by 64 lower-case hex digits")
    return posixpath.join(folder, sha256[:SHELF_DIGITS], sha256)


def referenced(state: State) -> set[str]:
    """Every blob that a row of the state refers to.

    Raises OlderThanCluster: rows that are not understood may refer to more.
    """
    check_not_older(state)
    return {
        sha256
        for table in state.schema.tables.values()
        if table.blobs is not None
        for row in state.scan(table)
        for sha256 in table.blobs(row)
    }
