"""Steady requests to an ingress, and a small server that is asked.

What a client sees is kept whole: each answer's status and who gave it, or why there was none.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

HERE = "127.0.0.1"
Door = tuple[str, int]
"""Address and port of an ingress."""
SERVER = """
import os, selectors, signal, socket
me = str(os.getpid()).encode()
noted = open(os.environ["NOTES"] + "/" + me.decode(), "ab", 0) if "NOTES" in os.environ else None
version = os.environ.get("VERSION", "1").encode()
body = version + b" " + me
page = b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (len(body), body)
look = selectors.DefaultSelector()
door = socket.create_server((os.environ.get("BIND", "127.0.0.1"), int(os.environ["PORT"])), backlog=512)
door.setblocking(False)
look.register(door, selectors.EVENT_READ)
leaving = []
signal.signal(signal.SIGTERM, lambda *_: leaving.append(1))
while not leaving:
    for key, _ in look.select(0.1):
        if key.fileobj is door:
            try:
                line = door.accept()[0]
            except OSError:
                continue
            line.setblocking(False)
            look.register(line, selectors.EVENT_READ, bytearray())
            continue
        line = key.fileobj
        try:
            got = line.recv(65536)
        except OSError:
            got = b""
        if got:
            key.data.extend(got)
            while b"\\r\\n\\r\\n" in key.data:
                if noted and not key.data.startswith(b"GET"):
                    noted.write(key.data.partition(b" HTTP")[0] + b"\\n")
                del key.data[: key.data.index(b"\\r\\n\\r\\n") + 4]
                try:
                    line.sendall(page)
                except OSError:
                    break
        else:
            look.unregister(line)
            line.close()
"""
"""Answers its version and its process, keeps connections, and drops them all at the stop signal. What is no
GET is noted in a file of the folder NOTES, if there is one."""


def a_server(name: str, replicas: int, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "command": [sys.executable, "-S", "-c", SERVER],
        "port": 8080,
        "health": "/",
        "replicas": replicas,
        **more,
    }


@dataclass
class Seen:
    """`answers`: by what was answered; `failures`: what else became of requests."""

    answers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return self.answers.total()

    def versions(self) -> Counter[str]:
        found = Counter[str]()
        for answer, count in self.answers.items():
            found[answer.split()[0]] += count
        return found


async def ask(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    host: str,
    *,
    method: str = "GET",
    path: str = "/",
    headers: str = "",
    body: bytes = b"",
) -> tuple[int, str]:
    """Status and body of one answer, which has a length. Raises OSError, EOFError."""
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{length}{headers}\r\n"
    writer.write(head.encode() + body)
    answer = await reader.readuntil(b"\r\n\r\n")
    status = int(answer.split(b" ", 2)[1])
    size = answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return status, (await reader.readexactly(int(size or 0))).decode()


async def fetch(port: int, host: str, *, at: str = HERE, **more: Any) -> tuple[int, str]:
    """One request on a connection of its own. Raises OSError, EOFError."""
    reader, writer = await asyncio.open_connection(at, port)
    try:
        return await ask(reader, writer, host, **more)
    finally:
        writer.close()


@asynccontextmanager
async def traffic(
    ports: Sequence[int],
    host: str,
    *,
    kept: int = 500,
    fresh: int = 50,
    clients: int = 20,
    at: str = HERE,
) -> AsyncIterator[Seen]:
    """So many requests a second on connections that are kept, and on fresh ones, spread over the ports. A
    machine that is busy makes fewer of them, never wrong ones."""
    seen = Seen()
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(_keep_asking((at, ports[n % len(ports)]), host, clients / kept, seen))
            for n in range(clients)
        ]
        tasks.append(
            group.create_task(_ask_anew([(at, port) for port in ports], host, 1 / fresh, seen))
        )
        try:
            yield seen
        finally:
            for task in tasks:
                task.cancel()


async def _keep_asking(door: Door, host: str, pause: float, seen: Seen) -> None:
    while True:
        writer = None
        try:
            reader, writer = await asyncio.open_connection(*door)
            while True:
                await _note(ask(reader, writer, host), seen, door)
                await asyncio.sleep(pause)
        except (OSError, EOFError) as error:
            seen.failures.append(f"kept, {door}: {error!r}")
            await asyncio.sleep(pause)
        finally:
            if writer is not None:
                writer.close()


async def _ask_anew(doors: Sequence[Door], host: str, pause: float, seen: Seen) -> None:
    number = 0
    async with asyncio.TaskGroup() as group:
        while True:
            number += 1
            group.create_task(_one(doors[number % len(doors)], host, seen))
            await asyncio.sleep(pause)


async def _one(door: Door, host: str, seen: Seen) -> None:
    try:
        at, port = door
        await _note(fetch(port, host, at=at, headers="Connection: close\r\n"), seen, door)
    except (OSError, EOFError) as error:
        seen.failures.append(f"fresh, {door}: {error!r}")


async def _note(request: Awaitable[tuple[int, str]], seen: Seen, door: Door) -> None:
    status, text = await request
    if status == 200:
        seen.answers[text] += 1
    else:
        seen.failures.append(f"{door}: {status} {text.strip()}")
