"""The end of what a task has printed, for whoever asks why it ended."""

import asyncio
import re
from collections import deque
from contextlib import aclosing, suppress

from orca_worker.runtime.port import Runtime, RuntimeRefusal

LINES = 5
MOST_CHARACTERS = 200
READ_SECONDS = 2.0
MOST_BYTES = 1 << 20
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[^\[])")


async def last_lines(runtime: Runtime, task_id: str) -> list[str]:
    """At most LINES of them, each of at most MOST_CHARACTERS; none, where none can be had soon."""
    kept: deque[bytes] = deque(maxlen=LINES)
    count, end = 0, b""
    with suppress(RuntimeRefusal, TimeoutError):
        async with (
            asyncio.timeout(READ_SECONDS),
            aclosing(runtime.logs(task_id, tail=LINES)) as chunks,
        ):
            async for chunk in chunks:
                count += len(chunk)
                *whole, end = (end + chunk).split(b"\n")
                kept.extend(line[: 4 * MOST_CHARACTERS] for line in whole)
                if count > MOST_BYTES:
                    break
    lines = [readable(line) for line in [*kept, end[: 4 * MOST_CHARACTERS]]]
    return [line for line in lines if line][-LINES:]


def readable(line: bytes) -> str:
    """As text in one line, without what moves a cursor or colours."""
    text = _ESCAPES.sub("", line.decode(errors="replace")).replace("\t", " ")
    return "".join(c for c in text if c.isprintable()).strip()[:MOST_CHARACTERS]
