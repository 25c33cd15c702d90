"""Answers to clients that do not read: they are given up after a while, and cost a bounded buffer."""

import asyncio

from aiohttp import web

SMALL_BYTES = 16 << 10
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
    if _fits_in_buffers(request, response):
        await response.prepare(request)
        await response.write_eof()
        return
    try:
        async with asyncio.timeout(READ_SECONDS):
            if not response.prepared:
                await response.prepare(request)
            await response.write_eof()
    except TimeoutError as error:
        raise _given_up(request) from error


def _fits_in_buffers(request: web.Request, response: web.StreamResponse) -> bool:
    """Then nobody need be waited for."""
    transport = request.transport
    return (
        isinstance(response, web.Response)
        and isinstance(response.body, bytes)
        and len(response.body) < SMALL_BYTES
        and transport is not None
        and transport.get_write_buffer_size() < SMALL_BYTES
    )


def _given_up(request: web.Request) -> ConnectionError:
    if request.transport is not None:
        request.transport.abort()
    return ConnectionError(f"the client has read nothing for {READ_SECONDS:g} s")
