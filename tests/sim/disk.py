"""A disk in memory that forgets what was not synced, in the worst ways that a real one may.

Every file has what its readers see and what is durable; what lies between are the writes and
truncations since its last sync. Names are the same: a created, renamed or removed name is durable
only after `sync_folder`. A power loss keeps any prefix of a file's changes, the next write torn at
any byte or grown with zeros where data should be, and any subset of the changed names. Folders
themselves are durable at once.
"""

import errno
import io
import itertools
import math
import os
import posixpath
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from orca_common.env import AppendFile, ReadFile

SECTOR_BYTES = 512

Image = dict[str, bytes]
"""Everything on a disk after a power loss: path → content."""


@dataclass(slots=True, eq=False)
class _File:
    content: bytes = b""
    durable: bytes = b""
    unsynced: list[bytes | int] = field(default_factory=list)  # data appended, or the size cut to

    def change(self, change: bytes | int) -> None:
        self.content = _changed(self.content, change)
        self.unsynced.append(change)

    def sync(self) -> None:
        self.durable = self.content
        self.unsynced.clear()

    def after_power_loss(self) -> Iterator[bytes]:
        """Every content that may be left, each once."""
        content = self.durable
        seen = {content}
        yield content
        for change in self.unsynced:
            after = _changed(content, change)
            candidates = [after]
            if isinstance(change, bytes):
                candidates += [content + change[:cut] for cut in range(1, len(change))]
                candidates += [
                    after[:cut] + bytes(len(after) - cut) for cut in _cuts(len(content), len(after))
                ]
            for candidate in candidates:
                if candidate not in seen:
                    seen.add(candidate)
                    yield candidate
            content = after


@dataclass(frozen=True, slots=True, eq=False)
class _NameChange:
    """`old` goes away if given, `new` comes if given."""

    folder: str
    old: str | None
    new: str | None
    file: _File | None

    def apply(self, names: dict[str, _File]) -> None:
        if self.old is not None:
            names.pop(self.old, None)
        if self.new is not None and self.file is not None:
            names[self.new] = self.file


@dataclass(frozen=True, slots=True, eq=False)
class _FolderMove:
    """All names inside at once: that is what makes the renaming of a folder atomic."""

    folder: str
    old: str
    new: str

    def apply(self, names: dict[str, _File]) -> None:
        for path in [p for p in names if p.startswith(f"{self.old}/")]:
            names[self.new + path.removeprefix(self.old)] = names.pop(path)


class SimDisk:
    """`Disk` in memory. `capacity` (bytes, all files together) may be set and changed at any time.

    `before_change` is called before everything that alters what a power loss would leave.
    """

    def __init__(self, image: Image | None = None) -> None:
        self.capacity: int | None = None
        self.before_change: Callable[[], None] = lambda: None
        self._names = {path: _File(raw, raw) for path, raw in (image or {}).items()}
        self._durable_names = dict(self._names)
        self._name_changes: list[_NameChange | _FolderMove] = []
        self._folders = {"/"}
        for path in self._names:
            self.make_folders(posixpath.dirname(path))
        self._locks: set[str] = set()
        self._failures: dict[str, list[OSError]] = {}
        self._boot = 0

    # Faults.

    def fail_next(self, verb: str, error: OSError) -> None:
        """The next call of this verb (of the disk or of any file) raises; before any effect."""
        self._failures.setdefault(verb, []).append(error)

    def kill(self) -> None:
        """The process dies, the machine does not: locks and open files go, everything else stays."""
        self._boot += 1
        self._locks.clear()
        self._failures.clear()

    def crash(self, chance: random.Random) -> None:
        """Power loss: one of the states of `crash_states`, by chance."""
        self._become(next(self.some_crash_states(1, chance)))

    def crash_states(self) -> Iterator[Image]:
        """Everything that a power loss now may leave. Some images may come more than once."""
        left = self._left()
        for keep in itertools.product((True, False), repeat=len(self._name_changes)):
            names = self._names_after(keep)
            for chosen in itertools.product(*(left[file] for file in names.values())):
                yield dict(zip(names, chosen, strict=True))

    def some_crash_states(self, count: int, chance: random.Random) -> Iterator[Image]:
        """All of them if they are at most `count`, else so many of them by chance."""
        left = self._left()
        bound = math.prod(map(len, left.values())) << len(self._name_changes)
        if bound <= count:
            yield from self.crash_states()
            return
        for _ in range(count):
            names = self._names_after([chance.random() < 0.5 for _ in self._name_changes])
            yield {path: chance.choice(left[file]) for path, file in names.items()}

    def image(self) -> Image:
        """What readers see now: the state if nothing is lost."""
        return {path: file.content for path, file in self._names.items()}

    def flip(self, path: str, *, byte: int, bit: int) -> None:
        """Rot: one bit of a file changes for good, and nobody is told."""
        content = bytearray(self._file(path).content)
        content[byte] ^= 1 << bit
        self.put(path, bytes(content))

    def put(self, path: str, content: bytes) -> None:
        """Replace a file's content, durably, behind everybody's back."""
        self._file(path).content = content
        self._file(path).sync()

    # Disk.

    def make_folders(self, path: str) -> None:
        while path not in self._folders:
            self._folders.add(path)
            path = posixpath.dirname(path)

    def list(self, folder: str) -> list[str]:
        self._enter("list")
        if folder not in self._folders:
            raise _error(errno.ENOENT, folder)
        start = folder.rstrip("/") + "/"
        inside = (p[len(start) :] for p in (*self._names, *self._folders) if p.startswith(start))
        return sorted(name for name in inside if name and "/" not in name)

    def exists(self, path: str) -> bool:
        return path in self._names or path in self._folders

    def read(self, path: str) -> bytes:
        self._enter("read")
        return self._file(path).content

    def size(self, path: str) -> int:
        return len(self._file(path).content)

    def open_read(self, path: str) -> ReadFile:
        self._enter("open_read")
        return io.BytesIO(self._file(path).content)

    def open_append(self, path: str) -> AppendFile:
        self._enter("open_append")
        self._create(path)
        return _SimFile(self, self._names[path], self._boot)

    def rename(self, source: str, target: str) -> None:
        self._enter("rename")
        folder, other = map(posixpath.dirname, (source, target))
        if source in self._folders:
            if other != folder:
                raise _error(errno.EXDEV, target)
            self._rename_folder(source, target)
            return
        file = self._file(source)
        if other == folder:
            self._change_name(_NameChange(folder, source, target, file))
            return
        if other not in self._folders:
            raise _error(errno.ENOENT, target)
        self._change_name(_NameChange(other, None, target, file))
        self._change_name(_NameChange(folder, source, None, None))

    def remove(self, path: str) -> None:
        self._enter("remove")
        self._file(path)
        self._change_name(_NameChange(posixpath.dirname(path), path, None, None))

    def sync_folder(self, path: str) -> None:
        self._enter("sync_folder")
        if path not in self._folders:
            raise _error(errno.ENOENT, path)
        self.before_change()
        for change in self._name_changes:
            if change.folder == path:
                change.apply(self._durable_names)
        self._name_changes = [c for c in self._name_changes if c.folder != path]

    def lock(self, path: str) -> Callable[[], None]:
        self._enter("lock")
        if path in self._locks:
            raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK), path)
        self._create(path)
        self._locks.add(path)
        boot = self._boot

        def release() -> None:
            if boot == self._boot:
                self._locks.discard(path)

        return release

    # For open files.

    def write(self, file: _File, data: bytes) -> None:
        self._enter("write")
        room = len(data)
        if self.capacity is not None:
            room = max(0, self.capacity - sum(len(f.content) for f in self._names.values()))
        self.before_change()
        if room < len(data):
            if room:
                file.change(data[:room])
            raise _error(errno.ENOSPC, "")
        file.change(data)

    def truncate(self, file: _File, size: int) -> None:
        self._enter("truncate")
        self.before_change()
        file.change(size)

    def sync(self, file: _File) -> None:
        self._enter("sync")
        self.before_change()
        file.sync()

    def check_boot(self, boot: int) -> None:
        if boot != self._boot:
            raise _error(errno.EBADF, "a file of a process that is dead")

    def _left(self) -> Mapping[_File, Sequence[bytes]]:
        changed = [c.file for c in self._name_changes if isinstance(c, _NameChange) and c.file]
        files = {*self._durable_names.values(), *changed}
        return {file: [*file.after_power_loss()] for file in files}

    def _names_after(self, keep: Iterable[bool]) -> dict[str, _File]:
        names = dict(self._durable_names)
        for change in itertools.compress(self._name_changes, keep):
            change.apply(names)
        return names

    def _enter(self, verb: str) -> None:
        failures = self._failures.get(verb)
        if failures:
            raise failures.pop(0)

    def _create(self, path: str) -> None:
        folder = posixpath.dirname(path)
        if folder not in self._folders:
            raise _error(errno.ENOENT, path)
        if path not in self._names:
            self._change_name(_NameChange(folder, None, path, _File()))

    def _file(self, path: str) -> _File:
        if path not in self._names:
            raise _error(errno.ENOENT, path)
        return self._names[path]

    def _change_name(self, change: _NameChange) -> None:
        self.before_change()
        change.apply(self._names)
        self._name_changes.append(change)

    def _rename_folder(self, source: str, target: str) -> None:
        if any(posixpath.dirname(name) == target for name in self._names):
            raise _error(errno.ENOTEMPTY, target)
        self.before_change()
        move = _FolderMove(posixpath.dirname(source), source, target)
        move.apply(self._names)
        self._name_changes.append(move)
        self._folders.discard(source)
        self.make_folders(target)

    def _become(self, image: Image) -> None:
        self.kill()
        self._names = {path: _File(raw, raw) for path, raw in image.items()}
        self._durable_names = dict(self._names)
        self._name_changes = []


class _SimFile:
    def __init__(self, disk: SimDisk, file: _File, boot: int) -> None:
        self._disk = disk
        self._inode = file
        self._boot = boot
        self._is_open = True

    def write(self, data: bytes) -> None:
        self._check()
        self._disk.write(self._inode, bytes(data))

    def sync(self) -> None:
        self._check()
        self._disk.sync(self._inode)

    def truncate(self, size: int) -> None:
        self._check()
        self._disk.truncate(self._inode, size)

    def close(self) -> None:
        self._is_open = False

    def _check(self) -> None:
        self._disk.check_boot(self._boot)
        if not self._is_open:
            raise _error(errno.EBADF, "a closed file")


def _changed(content: bytes, change: bytes | int) -> bytes:
    if isinstance(change, bytes):
        return content + change
    return content[:change] + bytes(max(0, change - len(content)))


def _cuts(start: int, end: int) -> list[int]:
    first_boundary = (start // SECTOR_BYTES + 1) * SECTOR_BYTES
    return [start, *range(first_boundary, end, SECTOR_BYTES)]


def _error(number: int, about: str) -> OSError:
    return OSError(number, os.strerror(number), about)
