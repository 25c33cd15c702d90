"""The floor under a durable commit on three masters: only the messages, mTLS and the disk, no Raft.

A leader and two followers, each a process with a bare asyncio loop. For each update the leader appends so
many bytes to a file, sends them to both followers and calls fdatasync; a follower appends what came, calls
fdatasync and answers; the update is done when the leader's own call has returned and one answer has come.
What the masters take beyond that is Python's share in the protocol, the store and the callers. Used by
`raft`, for one caller.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from node import Load, Master

from orca_proto.identity import MASTER_NAME
from raft_tls import an_authority, client_context, master_files, server_context

FIRST_PORT = 24150
FOLLOWERS = 2
ANSWER = b"a"


class Appended:
    """A file that only grows."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)

    def write(self, data: bytes) -> None:
        os.write(self._descriptor, data)

    def sync(self) -> None:
        os.fdatasync(self._descriptor)


class FollowerEnd(asyncio.Protocol):
    def __init__(self, file: Appended, size: int) -> None:
        self._file = file
        self._size = size
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= self._size:
            self._file.write(bytes(self._buffer[: self._size]))
            del self._buffer[: self._size]
            self._file.sync()
            self._transport.write(ANSWER)


class LeaderEnd(asyncio.Protocol):
    """Counts answers, of which each stands for one update."""

    def __init__(self, look: asyncio.Event) -> None:
        self._look = look
        self.answered = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.answered += len(data)
        self._look.set()


async def load(file: Appended, seconds: float, size: int, tls: list[str]) -> Load:
    look, latencies = asyncio.Event(), list[float]()
    ends: list[LeaderEnd] = []
    for number in range(FOLLOWERS):
        _, end = await asyncio.get_running_loop().create_connection(
            lambda: LeaderEnd(look),
            *("127.0.0.1", FIRST_PORT + number),
            ssl=client_context(*tls),
            server_hostname=MASTER_NAME,
        )
        ends.append(end)
    data, sent = os.urandom(size), 0
    counts_from = time.perf_counter() + seconds / 5
    until = counts_from + seconds
    while (started := time.perf_counter()) < until:
        sent += 1
        file.write(data)
        for end in ends:
            end.transport.write(data)
        file.sync()
        while max(end.answered for end in ends) < sent:
            await look.wait()
            look.clear()
        if started >= counts_from:
            latencies.append(time.perf_counter() - started)
    while min(end.answered for end in ends) < sent:
        await look.wait()
        look.clear()
    for end in ends:
        end.transport.abort()
    return Load.of(latencies, seconds)


async def serve(configuration: dict[str, Any]) -> None:
    file, tls = Appended(configuration["file"]), configuration["tls"]
    if configuration["port"] is not None:
        await asyncio.get_running_loop().create_server(
            lambda: FollowerEnd(file, configuration["size"]),
            *("127.0.0.1", configuration["port"]),
            ssl=server_context(*tls),
        )
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    while line := await lines.readline():
        match json.loads(line):
            case ["ready"]:
                answer: Any = True
            case ["load", seconds]:
                answer = asdict(await load(file, seconds, configuration["size"], tls))
            case other:
                raise ValueError(other)
        print(json.dumps(answer), flush=True)


@asynccontextmanager
async def floor(folder: str | None, size: int) -> AsyncIterator[Master]:
    """Yields the leader: ask it to "load" for so many seconds."""
    with tempfile.TemporaryDirectory(prefix="orca-bench-", dir=folder) as name:
        path, signer = Path(name), an_authority()
        ports = [FIRST_PORT + number for number in range(FOLLOWERS)]
        started = [
            Master(
                {
                    "tls": master_files(signer, f"m{number}", path),
                    "file": str(path / f"m{number}.log"),
                    "port": port,
                    "size": size,
                },
                program=__file__,
            )
            for number, port in enumerate([None, *ports])
        ]
        try:
            for process in started:
                await process.start()
                await process.ask("ready")
            yield started[0]
        finally:
            for process in started:
                await process.kill()


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.argv[1])))
