"""Answers on their way out. Whole ones leave in one piece; clients that do not read are given up.

Head and body of a whole answer are put together here: the framework's own response object costs as
much as the rest of a small request. Streams go through the framework.
"""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

from aiohttp import HttpVersion11, web

SMALL_BYTES = 16 << 10
READ_SECONDS = 20.0
"""How long a client may read nothing of what is waiting for it."""


@dataclass(slots=True)
class Answer:
    """A whole one. Header values are ours, never text that came in from outside."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


async def send(request: web.BaseRequest, answer: Answer, *, now: float) -> web.StreamResponse:
    """Returns what the framework takes for an answer that has left. Raises ConnectionError."""
    transport = request.transport
    if transport is None or transport.is_closing():
        return LAST
    head = _head(request, answer, now)
    transport.write(head if request.method == "HEAD" else head + answer.body)
    if transport.get_write_buffer_size() >= SMALL_BYTES:
        try:
            async with asyncio.timeout(READ_SECONDS):
                await request.writer.drain()
        except TimeoutError as error:
            raise _given_up(request) from error
    return KEPT if request.keep_alive else LAST


def _head(request: web.BaseRequest, answer: Answer, now: float) -> bytes:
    lines = [
        _status_line(answer.status),
        f"Content-Length: {len(answer.body)}",
        f"Date: {_date(int(now))}",
        *(f"{name}: {value}" for name, value in answer.headers.items()),
    ]
    if not request.keep_alive:
        lines.append("Connection: close")
    elif request.version < HttpVersion11:
        lines.append("Connection: keep-alive")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


@lru_cache
def _status_line(status: int) -> str:
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


class _Sent(web.StreamResponse):
    """An answer that has left already: there is nothing to prepare or to end."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._is_kept = keep_alive

    @property
    def keep_alive(self) -> bool:
        return self._is_kept

    async def prepare(self, request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


KEPT = _Sent(keep_alive=True)
LAST = _Sent(keep_alive=False)


async def write(request: web.BaseRequest, response: web.StreamResponse, part: bytes) -> None:
    """A part of a stream. Raises ConnectionError when the client does not read."""
    await in_time(request, response.write(part))


async def end(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """The end of a stream. Raises ConnectionError when the client does not read."""
    await in_time(request, response.write_eof())


async def in_time(request: web.BaseRequest, sending: Awaitable[None]) -> None:
    """Raises ConnectionError when the client does not read."""
    try:
        async with asyncio.timeout(READ_SECONDS):
            await sending
    except TimeoutError as error:
        raise _given_up(request) from error


def _given_up(request: web.BaseRequest) -> ConnectionError:
    if request.transport is not None:
        request.transport.abort()
    return ConnectionError(f"the client has read nothing for {READ_SECONDS:g} s")
