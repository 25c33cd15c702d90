"""A server that a fenced replica holds for as long as it runs, and that sees when two do.

A replica connects, says its fencing token and holds the connection; the kernel closes it when the replica
is killed.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

GUARD_SECONDS = 120.0
PROGRAM = """
import os, socket, sys, time
ledger = socket.create_connection((sys.argv[1], int(sys.argv[2])))
ledger.sendall(os.environ["ORCA_FENCING_TOKEN"].encode() + b"\\n")
time.sleep(100000)
"""


class Ledger:
    """`wrong`: what a fenced replica must never do."""

    def __init__(self) -> None:
        self.port = 0
        self.last = 0
        self.holders: set[int] = set()
        self.wrong: list[str] = []
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Ledger"]:
        server = await asyncio.start_server(self._hold, "0.0.0.0", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def next_after(self, token: int) -> int:
        """The token of a holder that began later."""
        async with asyncio.timeout(GUARD_SECONDS):
            while not self.holders or self.last <= token:
                self._changed.clear()
                await self._changed.wait()
        return self.last

    async def _hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            token = int(await reader.readline() or b"0")
            if token <= self.last:
                self.wrong.append(f"token {token} came after {self.last}")
            if self.holders:
                self.wrong.append(f"{token} began while {self.holders} held it")
            self.last = max(self.last, token)
            self.holders.add(token)
            self._changed.set()
            await reader.read()
            self.holders.discard(token)
        except ConnectionError:
            self.holders.clear()
        finally:
            writer.close()
