"""A container's output as it is written.

It may be silent for days, so no thread waits for it as the other long answers do: this is the one
request that goes to the engine over the loop's own streams.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import datetime
from urllib.parse import urlencode, urlsplit

from orca_worker.runtime.docker.streams import take_frames
from orca_worker.runtime.lines import CHUNK_BYTES, Lines
from orca_worker.runtime.port import RuntimeRefusal

ANSWER_SECONDS = 30.0
FIRST_SILENCE_SECONDS, LONGEST_SILENCE_SECONDS = 1.0, 60.0
MOST_LAST_LINES = 100_000
ENGINE_PORT = 2375


async def follow(
    url: str,
    path: str,
    params: Mapping[str, str | int],
    *,
    is_over: Callable[[], Awaitable[bool]],
) -> AsyncGenerator[bytes, None]:
    """Whole lines as they come, until the container has ended. Raises RuntimeRefusal.

    `path` is that of the container's logs. Some engines forget to end the answer with the container,
    or leave out its last words; so it is asked now and then whether it `is_over`, and in the end
    whether there is more.
    """
    lines, last = Lines(), b""
    asked = {**params, "timestamps": 1}
    async with aclosing(_entries(url, path, asked | {"follow": 1}, is_over)) as entries:
        async for at, text in entries:
            last = at
            if whole := lines.take(text):
                yield whole
    if last:
        asked |= {"since": _unix(last), "tail": MOST_LAST_LINES}
    with suppress(RuntimeRefusal):  # it may be removed by now
        async with aclosing(_entries(url, path, asked, None)) as entries:
            async for at, text in entries:
                if at > last and (whole := lines.take(text)):
                    yield whole
    if rest := lines.rest():
        yield rest


async def _entries(
    url: str,
    path: str,
    params: Mapping[str, str | int],
    is_over: Callable[[], Awaitable[bool]] | None,
) -> AsyncGenerator[tuple[bytes, bytes], None]:
    """Pairs of a time, in a form that sorts, and what was written then. Raises RuntimeRefusal."""
    # HTTP/1.0, so that the answer ends with the connection and comes in no other wrapping.
    head = f"GET {path}?{urlencode(params)} HTTP/1.0\r\nHost: engine\r\n\r\n".encode()
    try:
        async with _connected(url) as (read, write):
            async with asyncio.timeout(ANSWER_SECONDS):
                write.write(head)
                await _check(read)
            buffer = bytearray()
            while piece := await _read(read, is_over):
                buffer += piece
                for frame in take_frames(buffer):
                    at, _, text = frame.partition(b" ")
                    yield at, text
    except (OSError, TimeoutError, ValueError) as error:
        raise RuntimeRefusal(
            f"the container engine at {url} cannot be read from: {error or type(error).__name__}"
        ) from error


async def _read(read: asyncio.StreamReader, is_over: Callable[[], Awaitable[bool]] | None) -> bytes:
    """What comes next; empty at the end, which is also when nothing comes of what is over."""
    if is_over is None:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await read.read(CHUNK_BYTES)
    wait, was_over = FIRST_SILENCE_SECONDS, False
    while True:
        try:
            async with asyncio.timeout(wait):
                return await read.read(CHUNK_BYTES)
        except TimeoutError:
            if was_over:
                return b""
            was_over = await is_over()
            wait = FIRST_SILENCE_SECONDS if was_over else min(2 * wait, LONGEST_SILENCE_SECONDS)


def _unix(at: bytes) -> str:
    """The engine's own form of a time, as it takes it back."""
    text = at.decode()
    seconds = datetime.fromisoformat(text[:19] + "+00:00").timestamp()
    return f"{seconds:.0f}.{text[20:29].rstrip('Z'):0<9}"


@asynccontextmanager
async def _connected(
    url: str,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        read, write = await asyncio.open_unix_connection(parts.path)
    elif parts.scheme in ("tcp", "http") and parts.hostname:
        read, write = await asyncio.open_connection(parts.hostname, parts.port or ENGINE_PORT)
    else:
        raise RuntimeRefusal(f"output cannot be followed over {parts.scheme}")
    try:
        yield read, write
    finally:
        write.close()


async def _check(read: asyncio.StreamReader) -> None:
    """Read the head of the answer. Raises RuntimeRefusal unless it is a 200."""
    words = (await read.readline()).split(maxsplit=2)
    while (await read.readline()).strip():
        pass
    if len(words) < 2 or words[1] != b"200":
        reason = words[-1].decode(errors="replace").strip() if words else "nothing"
        raise RuntimeRefusal(f"the container engine answered: {reason}")
