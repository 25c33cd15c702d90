"""A registry's door that asks who is there, and that may stop giving in the middle of a layer."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

TLS_HANDSHAKE = b"\x16"
USER, PASSWORD = "puller", "correct-horse-battery"


class Door:
    """`address` is that of the door; `asked` counts requests, `refused` those without an account."""

    def __init__(self, behind: str, *, needs_account: bool, layer_bytes: int | None) -> None:
        self.behind = behind
        self.address = ""
        self.asked = self.refused = 0
        self._needs_account = needs_account
        self._layer_bytes = layer_bytes
        self._tasks: set[asyncio.Task[None]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.create_task(self._serve(reader, writer)))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # for the loop to close what was let go of

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                first = await reader.readexactly(1)
                if first != TLS_HANDSHAKE:  # which an engine tries first, and waits for
                    await self._answer(first + await reader.readuntil(b"\r\n\r\n"), writer)
        finally:
            writer.close()

    async def _answer(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        self.asked += 1
        account = base64.b64encode(f"{USER}:{PASSWORD}".encode())
        if self._needs_account and b"Basic " + account not in head:
            self.refused += 1
            writer.write(
                b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=r\r\n"
                b"Content-Length: 0\r\nConnection: close\r\n\r\n"
            )
        else:
            await self._pass_on(head, writer)

    async def _pass_on(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        host, _, port = self.behind.partition(":")
        there, back = await asyncio.open_connection(host, int(port))
        back.write(head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        left = self._layer_bytes if b"/blobs/" in head.split(b"\r\n", 1)[0] else None
        try:
            while piece := await there.read(8192):
                if left is not None:
                    piece, left = piece[:left], left - len(piece[:left])
                writer.write(piece)
                await writer.drain()
                if left == 0:
                    await asyncio.Event().wait()
        finally:
            back.close()


@asynccontextmanager
async def door(
    behind: str, *, needs_account: bool = False, layer_bytes: int | None = None
) -> AsyncIterator[Door]:
    """`layer_bytes`: so much of each layer or configuration is given, then nothing more, for ever."""
    made = Door(behind, needs_account=needs_account, layer_bytes=layer_bytes)
    server = await asyncio.start_server(made.accept, "127.0.0.1", 0)
    made.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
        await made.close()
