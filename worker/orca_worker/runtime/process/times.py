"""When a plain process wrote what, as far as `--since` has to know.

The process writes straight into its file, so nobody sees the single lines. Instead the file's size
is noted once a second together with the time of its last write: all that lies before a noted size
was written by then. What is read back is so never too little, and too much by what was written
within a second (or within the whole time, where no worker was there to look). Blocks; for a thread.
"""

import contextlib
import os
import struct
from collections.abc import Iterable

from orca_worker.runtime.lines import tail_offset
from orca_worker.runtime.process.folder import Tasks, reader

NAME = "output.times"
MOST_BYTES = 256 << 10
"""Of notes; above that every second one is dropped, the old ones again and again."""

_NOTE = struct.Struct("<dQ")  # Unix seconds, bytes


class Times:
    """The notes of all tasks of one folder. `note` is called again and again by one caller."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._sizes: dict[str, int] = {}

    def note(self, task_ids: Iterable[str]) -> None:
        """Note the sizes that have changed. Raises OSError."""
        sizes: dict[str, int] = {}
        for task_id in task_ids:
            with contextlib.suppress(FileNotFoundError):  # it has written nothing, or is removed
                found = os.stat(self._tasks.path(task_id, "output.log"))
                if found.st_size != self._sizes.get(task_id, 0):
                    self._append(task_id, _NOTE.pack(found.st_mtime, found.st_size))
                sizes[task_id] = found.st_size
        self._sizes = sizes

    def first_since(self, task_id: str, fd: int, since: float) -> int:
        """Where in the open output the lines of `since` and later begin."""
        found = os.fstat(fd)
        if found.st_mtime < since:
            return found.st_size
        try:
            with open(self._tasks.path(task_id, NAME), "rb") as file:
                notes = file.read()
        except FileNotFoundError:
            return 0
        whole = len(notes) // _NOTE.size * _NOTE.size
        older = (size for at, size in _NOTE.iter_unpack(notes[:whole]) if at < since)
        return _line_start(fd, min(max(older, default=0), found.st_size))

    def _append(self, task_id: str, note: bytes) -> None:
        path = self._tasks.path(task_id, NAME)
        fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, note)
            size = os.fstat(fd).st_size
            if size > MOST_BYTES:
                notes = os.pread(fd, size, 0)
                kept = b"".join(
                    notes[at : at + _NOTE.size] for at in range(0, size, 2 * _NOTE.size)
                )
                with open(f"{path}.new", "wb") as file:
                    file.write(kept)
                os.rename(f"{path}.new", path)
        finally:
            os.close(fd)


def _line_start(fd: int, offset: int) -> int:
    """The beginning of the line that the offset is in."""
    read_at = reader(fd)
    if offset == 0 or read_at(1, offset - 1) == b"\n":
        return offset
    return tail_offset(read_at, offset, 1)
