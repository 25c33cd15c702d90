"""A door before an engine's socket that stops one request: before the engine hears it, or its answer.

For tests that kill whoever asked in that very moment.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

CHUNK = 1 << 16


class EngineDoor:
    """`stop` says which request is next; `stopped` is set once it has come there."""

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._pattern: re.Pattern[bytes] | None = None
        self._is_answered_first = False
        self.stopped = asyncio.Event()
        self._serving: set[asyncio.Task[None]] = set()

    def stop(self, request: str, *, after: bool) -> None:
        """The next request of which the first line matches; `after`: the engine has done what it asks."""
        self._pattern = re.compile(request.encode())
        self._is_answered_first = after
        self.stopped.clear()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def close(self) -> None:
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_engine: asyncio.StreamWriter | None = None
        down: asyncio.Task[None] | None = None
        try:
            with contextlib.suppress(OSError):
                from_engine, to_engine = await asyncio.open_unix_connection(self._engine)
                held = asyncio.Event()
                down = asyncio.create_task(self._pass_down(from_engine, writer, held))
                while chunk := await reader.read(CHUNK):
                    if self._pattern is not None and self._pattern.match(chunk):
                        self._pattern = None
                        if not self._is_answered_first:
                            self.stopped.set()
                            await reader.read()  # until whoever asked is gone
                            return
                        held.set()
                    to_engine.write(chunk)
                    await to_engine.drain()
        finally:
            if down is not None:
                down.cancel()
                await asyncio.gather(down, return_exceptions=True)
            for each in (writer, to_engine):
                if each is not None:
                    each.close()

    async def _pass_down(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, held: asyncio.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK):
                if held.is_set():
                    self.stopped.set()
                    await asyncio.Event().wait()
                writer.write(chunk)
                await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()


@asynccontextmanager
async def engine_door(engine: str, socket: Path) -> AsyncIterator[EngineDoor]:
    """Before the engine at this path; it listens at `socket`."""
    door = EngineDoor(engine)
    server = await asyncio.start_unix_server(door.accept, path=str(socket))
    try:
        yield door
    finally:
        server.close()
        await door.close()
