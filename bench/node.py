"""One master of a benchmark, as a process: the store on the replicated log, with mTLS and fdatasync.

It is told on its standard input what to do, a JSON list of a verb and its arguments a line, and
answers each with a line of JSON. The callers of a load live in this process: what is measured is the
store and its log, not the API in front of it. Used by `raft` and `big`.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from table import percentile

from orca_common.daemon import settle_memory
from orca_common.logs import configure_logs
from orca_common.real import real_env
from orca_master.state.entry import Entry, encode_entry
from orca_master.state.raft import Member, RaftLog
from orca_master.state.raft.founding import lay
from orca_master.state.raft.members import Configuration, parse_address
from orca_master.state.raft.transport import TlsNetwork, master_of
from orca_master.state.solo.folder import Identity
from orca_master.state.store import Store
from orca_master.state.table import Schema, Table
from raft_tls import CLUSTER, an_authority, client_context, master_files, server_context

NAMES = ("m1", "m2", "m3")
FIRST_PORT = 24100
KEYS = 10_000
ANSWER_SECONDS = 300.0
LOOK_SECONDS = 0.002


class Row(msgspec.Struct, frozen=True):
    id: str
    data: bytes


ROWS = Table("rows", Row, key=lambda row: (row.id,))


@dataclass(frozen=True, slots=True)
class Load:
    """What a closed loop of callers got: updates a second, latencies in seconds."""

    rate: float
    p50: float
    p99: float

    @classmethod
    def of(cls, latencies: list[float], seconds: float) -> "Load":
        p50, p99 = percentile(latencies, 50), percentile(latencies, 99)
        return cls(len(latencies) / seconds, p50, p99)


class Pause:
    """The longest time that the event loop did not turn, since the last look."""

    def __init__(self) -> None:
        self._longest = 0.0

    async def watch(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(LOOK_SECONDS)
            self._longest = max(self._longest, time.perf_counter() - before - LOOK_SECONDS)

    def take(self) -> float:
        longest, self._longest = self._longest, 0.0
        return longest


async def load(store: Store, callers: int, seconds: float, size: int) -> Load:
    """Each caller writes a row, waits until it is durable, and goes on with the next.

    Warms up for a fifth of the time, then counts.
    """
    latencies: list[float] = []
    noise = os.urandom(1024 + size)
    counts_from = time.perf_counter() + seconds / 5
    until = counts_from + seconds

    async def call(number: int) -> None:
        count = number
        while (started := time.perf_counter()) < until:
            count += callers
            row = Row(f"{count % KEYS:08}", noise[count % 1024 : count % 1024 + size])
            await store.update(lambda tx: tx.put(ROWS, row))  # noqa: B023 (done before the next)
            if started >= counts_from:
                latencies.append(time.perf_counter() - started)

    async with asyncio.TaskGroup() as group:
        for number in range(callers):
            group.create_task(call(number))
    return Load.of(latencies, seconds)


async def fill(store: Store, rows: int, size: int) -> int:
    """So many rows, in transactions of 128 KB."""
    at_once = max(1, (128 << 10) // size)

    def put(first: int) -> Any:
        made = [Row(f"fill-{n:08}", os.urandom(size)) for n in range(first, first + at_once)]
        return lambda tx: [tx.put(ROWS, row) for row in made if int(row.id[5:]) < rows]

    for first in range(0, rows, at_once):
        await store.update(put(first), budget_seconds=1.0)
    return store.state.row_count


async def lengthen(store: Store, log: RaftLog, entries: int, size: int, at_once: int) -> int:
    """So many small entries of the store, several under way at once. Nobody else may write."""
    version = store.state.version
    for first in range(0, entries, at_once):
        async with asyncio.TaskGroup() as group:
            for number in range(first, min(entries, first + at_once)):
                row = Row(f"{number % KEYS:08}", os.urandom(size))
                changes = {("rows", (row.id,)): ROWS.encode(row)}
                group.create_task(log.propose(encode_entry(Entry(version + number, changes))))
    return store.state.version - version


def memory() -> dict[str, float]:
    """MB in use now, and at most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {line.split(":")[0]: line.split()[1] for line in lines if "kB" in line}
    return {"now": int(found["VmRSS"]) / 1000, "most": int(found["VmHWM"]) / 1000}


async def serve(configuration: dict[str, Any]) -> None:
    started = time.perf_counter()
    configure_logs(level="error", as_json=False)
    env, name, folder = real_env(), configuration["name"], configuration["folder"]
    addresses: dict[str, str] = configuration["addresses"]
    network = TlsNetwork(
        env,
        cluster_id=CLUSTER,
        node=name,
        listen=parse_address(addresses[name]),
        server_tls=server_context(*configuration["tls"]),
        client_tls=client_context(*configuration["tls"]),
        verify=master_of(CLUSTER),
    )
    if not os.path.exists(folder):
        members = tuple(Member(n, address, is_voter=True) for n, address in addresses.items())
        await lay(
            env,
            folder,
            identity=Identity(cluster=CLUSTER, member=name),
            configuration=Configuration(members=members),
            capture=(),
            first_term=0,
        )
    options = configuration["options"]
    log = RaftLog(env, folder, cluster_id=CLUSTER, node=name, network=network, **options)
    store = Store(env, log, Schema(ROWS))
    await store.start()
    settle_memory()  # as a daemon does
    pause, watching = Pause(), list[asyncio.Task[None]]()

    async def answer(verb: str, *arguments: Any) -> Any:
        match verb:
            case "started":
                return time.perf_counter() - started
            case "who":
                return log.leadership.is_leader
            case "load":
                return asdict(await load(store, *arguments))
            case "fill":
                return await fill(store, *arguments)
            case "lengthen":
                return await lengthen(store, log, *arguments)
            case "standing":
                standing = log.progress()
                return store.state.version, standing.applied_index, log.meters.snapshots_taken
            case "received":
                return log.meters.snapshots_received
            case "watch":  # from here on: it wakes often, which a load should not pay for
                watching.append(group.create_task(pause.watch()))
            case "pause":
                return pause.take()
            case "memory":
                return memory()
            case _:
                raise ValueError(verb)

    with suppress(asyncio.CancelledError):
        async with asyncio.TaskGroup() as group:
            running = group.create_task(store.run())
            lines = asyncio.StreamReader()
            await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
            )
            while line := await lines.readline():
                print(json.dumps(await answer(*json.loads(line))), flush=True)
            running.cancel()
            for task in watching:
                task.cancel()
    await store.close()


# The other end.


@dataclass(slots=True)
class Master:
    configuration: dict[str, Any]
    process: asyncio.subprocess.Process | None = None
    program: str = __file__

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            self.program,
            json.dumps(self.configuration),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )

    async def ask(self, verb: str, *arguments: Any) -> Any:
        assert self.process is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{json.dumps([verb, *arguments])}\n".encode())
        async with asyncio.timeout(ANSWER_SECONDS):
            line = await self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a master ended while it was asked to {verb}")
        return json.loads(line)

    async def kill(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()
            self.process = None


@dataclass(slots=True)
class Masters:
    all: list[Master] = field(default_factory=list)

    async def leader(self) -> Master:
        async with asyncio.timeout(30):
            while True:
                for master in self.all:
                    if master.process is not None and await master.ask("who"):
                        return master
                await asyncio.sleep(0.05)


@asynccontextmanager
async def masters(
    folder: str | None, count: int = 3, options: Mapping[str, Any] | None = None
) -> AsyncIterator[Masters]:
    """`options` are those of `RaftLog`."""
    with tempfile.TemporaryDirectory(prefix="orca-bench-", dir=folder) as name:
        path, signer = Path(name), an_authority()
        addresses = {m: f"127.0.0.1:{FIRST_PORT + n}" for n, m in enumerate(NAMES[:count])}
        started = Masters(
            [
                Master(
                    {
                        "name": member,
                        "addresses": addresses,
                        "tls": master_files(signer, member, path),
                        "folder": str(path / member),
                        "options": dict(options or {}),
                    }
                )
                for member in addresses
            ]
        )
        try:
            for master in started.all:
                await master.start()
            await started.leader()
            yield started
        finally:
            for master in started.all:
                await master.kill()


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.argv[1])))
