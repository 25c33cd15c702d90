"""The last output of tasks that are gone: a file each, for a day, as far as there is room."""

import asyncio
import os
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from functools import partial

from orca_common.env import Env
from orca_common.logs import get_logger
from orca_worker.runtime.port import Runtime, RuntimeRefusal

KEPT_SECONDS = 24 * 3600.0
MOST_LINES = 10_000
MOST_BYTES = 256 << 10
"""Of one task."""
MOST_BYTES_OF_ALL = 64 << 20
READ_SECONDS = 10.0
PART = ".part"

log = get_logger("kept")


class KeptOutputs:
    """`folder` is made when something is kept; nobody but the worker's user can read it."""

    def __init__(self, env: Env, folder: str) -> None:
        self._env = env
        self._folder = folder

    async def keep(self, runtime: Runtime, task_id: str) -> None:
        """What can be had of it soon, before it is removed. Raises nothing: it is no reason to stay."""
        if not task_id.isalnum():  # a stranger's label
            return
        try:
            if text := await _last_of(runtime, task_id):
                await self._env.threads.run(partial(self._write, task_id, text))
        except (RuntimeRefusal, OSError, TimeoutError) as error:
            log.warning("its output is not kept", task=task_id, reason=str(error))

    async def read(self, task_id: str, *, tail: int) -> AsyncGenerator[bytes, None]:
        """Raises RuntimeRefusal if there is none."""
        try:
            text = await self._env.threads.run(partial(self._read, task_id))
        except OSError as error:
            why = f"nothing is kept of task {task_id} on this node"
            raise RuntimeRefusal(why) from error
        lines = text.splitlines(keepends=True)
        if tail:
            yield b"".join(lines[-tail:])

    def _path(self, task_id: str) -> str:
        return os.path.join(self._folder, f"{task_id}.log")

    def _read(self, task_id: str) -> bytes:
        if not task_id.isalnum():
            raise FileNotFoundError(task_id)
        with open(self._path(task_id), "rb") as file:
            return file.read()

    def _write(self, task_id: str, text: bytes) -> None:
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        self._make_room()
        path = self._path(task_id)
        with open(
            path + PART, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)
        ) as file:
            file.write(text)
        os.replace(path + PART, path)

    def _make_room(self) -> None:
        """Away with the old; then with the oldest, until another one fits."""
        oldest_allowed = self._env.now() - KEPT_SECONDS
        found = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                found.append((status.st_mtime, status.st_size, entry.path))
        found.sort(reverse=True)
        total = MOST_BYTES
        for modified, size, path in found:
            total += size
            if total > MOST_BYTES_OF_ALL or modified < oldest_allowed:
                with suppress(FileNotFoundError):
                    os.remove(path)


async def _last_of(runtime: Runtime, task_id: str) -> bytes:
    """Its last lines, MOST_BYTES at most."""
    kept: deque[bytes] = deque()
    size = 0
    async with (
        asyncio.timeout(READ_SECONDS),
        aclosing(runtime.logs(task_id, tail=MOST_LINES)) as chunks,
    ):
        async for chunk in chunks:
            kept.append(chunk)
            size += len(chunk)
            while size - len(kept[0]) >= MOST_BYTES:
                size -= len(kept.popleft())
    text = b"".join(kept)
    if len(text) <= MOST_BYTES:
        return text
    cut = text[-MOST_BYTES:]
    return cut[cut.find(b"\n") + 1 :]
