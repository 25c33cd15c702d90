"""Answers to clients that do not read: they are given up after a while, and cost a bounded buffer."""

import asyncio

from aiohttp import web

READ_SECONDS = 30.0
"""How long a client may read nothing of what is waiting for it."""


async def write(request: web.Request, response: web.StreamResponse, part: bytes) -> None:
    """Raises ConnectionError when the client does not read."""
    try:
        async with asyncio.timeout(READ_SECONDS):
            await response.write(part)
    except TimeoutError as error:
        raise _given_up(request) from error


async def send(request: web.Request, response: web.StreamResponse) -> None:
    """The whole of it, or the end of what was streamed. Raises ConnectionError."""
    try:
        async with asyncio.timeout(READ_SECONDS):
            if not response.prepared:
                await response.prepare(request)
            await response.write_eof()
    except TimeoutError as error:
        raise _given_up(request) from error


def _given_up(request: web.Request) -> ConnectionError:
    if request.transport is not None:
        request.transport.abort()
    return ConnectionError(f"the client has read nothing for {READ_SECONDS:g} s")
