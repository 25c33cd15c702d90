"""The little HTTP that a worker speaks: one request, one connection, over asyncio's streams.

A worker asks for a health check's status and, once in its life, for its certificate. A whole client
library for that takes 8 MB of every node.
"""

import asyncio
import io
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

MOST_BYTES = 1 << 20


class NotHttp(Exception):
    """The other side's answer is no HTTP; the text says what is wrong with it."""


async def get_status(
    host: str, port: int, path: str, headers: Mapping[str, str] | None = None
) -> int:
    """The status that a GET is answered with; its body is not waited for. Raises NotHttp, OSError."""
    more = dict(headers or {})
    named = next((more.pop(name) for name in list(more) if name.lower() == "host"), "")
    async with _connected(host, port) as (reader, writer):
        writer.write(_head("GET", path, named or f"{host}:{port}", more=more))
        return await _final_status(reader)


async def request(method: str, url: str, *, body: bytes | None = None) -> tuple[int, bytes]:
    """Status and body. A body that is sent is JSON. Raises NotHttp, OSError; ValueError: no URL."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url} is no address such as http://host:6880")
    tls = ssl.create_default_context() if parts.scheme == "https" else None
    port = parts.port or (443 if tls else 80)
    async with _connected(parts.hostname, port, tls) as (reader, writer):
        writer.write(_head(method, parts.path or "/", parts.netloc.rpartition("@")[2], body))
        answer = await _read_all(reader)
    try:
        response = HTTPResponse(_Answered(answer), method=method)  # type: ignore[arg-type]
        response.begin()
        return response.status, response.read()
    except HTTPException as error:
        raise NotHttp(str(error) or type(error).__name__) from error


@asynccontextmanager
async def _connected(
    host: str, port: int, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(host, port, ssl=tls)
    try:
        yield reader, writer
    finally:
        writer.close()


def _head(
    method: str,
    path: str,
    host: str,
    body: bytes | None = None,
    more: Mapping[str, str] | None = None,
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", "Accept: */*"]
    lines += [f"{name}: {value}" for name, value in (more or {}).items()]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


async def _final_status(reader: asyncio.StreamReader) -> int:
    """Of the answer itself: statuses below 200 come before it."""
    while True:
        line = await _line(reader)
        version, _, rest = line.partition(b" ")
        if not version.startswith(b"HTTP/1.") or not rest[:3].isdigit():
            raise NotHttp("its answer is no HTTP" if line else "it closed the connection")
        status = int(rest[:3])
        if status >= 200:
            return status
        while (await _line(reader)).strip():
            pass


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ValueError as error:  # longer than the stream's limit
        raise NotHttp("its answer is no HTTP") from error


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    answer = bytearray()
    while chunk := await reader.read(1 << 16):
        answer += chunk
        if len(answer) > MOST_BYTES:
            raise NotHttp("its answer is too long")
    return bytes(answer)


class _Answered:
    """What the standard library's parser wants of a socket: the answer as a file."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def makefile(self, *_: Any) -> io.BytesIO:
        return io.BytesIO(self._answer)
