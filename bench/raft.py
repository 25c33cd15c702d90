"""Commits per second and their latency on three masters and on one, each a process, with mTLS and fdatasync.

    python bench/raft.py [--seconds 5] [--callers 1 64 512] [--bytes 200] [--folder DIR]

The callers live in the leader's process and propose to the log itself, one entry each at a time:
what is measured is the log, not the API in front of it. `MEASURES` is where another system, run on
the same machine in the same way, joins the table. Folders must be on the disk that is to be
measured; on a tmpfs an fdatasync costs nothing.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from orca_common.logs import configure_logs
from orca_common.real import real_env
from orca_master.state.raft import Member, RaftLog
from orca_master.state.raft.founding import lay
from orca_master.state.raft.members import Configuration, parse_address
from orca_master.state.raft.transport import TlsNetwork, master_of
from orca_master.state.solo.folder import Identity
from raft_tls import CLUSTER, an_authority, client_context, master_files, server_context

NAMES = ("m1", "m2", "m3")
FIRST_PORT = 24100


@dataclass(frozen=True, slots=True)
class Row:
    system: str
    callers: int
    commits_per_second: float
    p50_ms: float
    p99_ms: float


class Counter:
    """The least machine: the log is measured, not the store."""

    def __init__(self) -> None:
        self.entries = 0

    def apply(self, entry: bytes) -> bool:
        self.entries += 1
        return True

    def capture(self) -> Iterator[bytes]:
        yield str(self.entries).encode()

    def restore(self, parts: Iterable[bytes]) -> None:
        self.entries = int(b"".join(parts))


# A master's process: reads `who` and `load <callers> <seconds> <bytes>` from its standard input.


async def serve(configuration: dict[str, Any]) -> None:
    configure_logs(level="error", as_json=False)
    env, name = real_env(), configuration["name"]
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
    await lay(
        env,
        configuration["folder"],
        identity=Identity(cluster=CLUSTER, member=name),
        configuration=Configuration(
            members=tuple(Member(n, address, is_voter=True) for n, address in addresses.items())
        ),
        capture=(),
        first_term=0,
    )
    log = RaftLog(env, configuration["folder"], cluster_id=CLUSTER, node=name, network=network)
    await log.start(Counter())
    async with asyncio.TaskGroup() as group:
        running = group.create_task(log.run())
        lines = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
        )
        while line := (await lines.readline()).decode().split():
            if line[0] == "who":
                print(json.dumps(log.leadership.is_leader), flush=True)
            else:
                callers, seconds, size = int(line[1]), float(line[2]), int(line[3])
                print(json.dumps(await load(log, callers, seconds, size)), flush=True)
        running.cancel()
    await log.close()


async def load(log: RaftLog, callers: int, seconds: float, size: int) -> dict[str, float]:
    """Warm up for a fifth of the time, then count."""
    entry, took = bytes(size), []
    counts_from = time.perf_counter() + seconds / 5
    until = counts_from + seconds

    async def call() -> None:
        while (started := time.perf_counter()) < until:
            await log.propose(entry)
            if started >= counts_from:
                took.append(time.perf_counter() - started)

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(call())
    took.sort()
    return {
        "commits": len(took) / seconds,
        "p50": 1000 * took[len(took) // 2],
        "p99": 1000 * took[len(took) * 99 // 100],
    }


# The measurement.


async def measure_three(options: argparse.Namespace, folder: Path) -> list[Row]:
    return await measure_ours(options, folder, count=3)


async def measure_one(options: argparse.Namespace, folder: Path) -> list[Row]:
    return await measure_ours(options, folder, count=1)


async def measure_ours(options: argparse.Namespace, folder: Path, *, count: int) -> list[Row]:
    signer = an_authority()
    names = NAMES[:count]
    addresses = {name: f"127.0.0.1:{FIRST_PORT + n}" for n, name in enumerate(names)}
    masters = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            __file__,
            "--serve",
            json.dumps(
                {
                    "name": name,
                    "addresses": addresses,
                    "tls": master_files(signer, name, folder),
                    "folder": str(folder / name),
                }
            ),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for name in names
    ]
    rows: list[Row] = []
    try:
        for callers in options.callers:
            leader = await find_leader(masters)
            found = await ask(leader, f"load {callers} {options.seconds} {options.bytes}")
            rows.append(
                Row(f"orca x{count}", callers, found["commits"], found["p50"], found["p99"])
            )
    finally:
        for master in masters:
            master.kill()
            await master.wait()
    return rows


async def ask(master: asyncio.subprocess.Process, line: str) -> Any:
    assert master.stdin is not None
    assert master.stdout is not None
    master.stdin.write(f"{line}\n".encode())
    return json.loads(await master.stdout.readline())


async def find_leader(masters: list[asyncio.subprocess.Process]) -> asyncio.subprocess.Process:
    async with asyncio.timeout(15):
        while True:
            for master in masters:
                if await ask(master, "who"):
                    return master
            await asyncio.sleep(0.05)


Measure = Callable[[argparse.Namespace, Path], Awaitable[list[Row]]]

MEASURES: list[Measure] = [measure_three, measure_one]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 64, 512])
    parser.add_argument("--bytes", type=int, default=200)
    parser.add_argument("--folder", help="where the masters' folders are made")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(json.loads(options.serve)))
        return
    print(f"{'system':10} {'callers':>7} {'commits/s':>10} {'p50 ms':>8} {'p99 ms':>8}")
    for measure in MEASURES:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            for row in asyncio.run(measure(options, Path(folder))):
                print(
                    f"{row.system:10} {row.callers:7} {row.commits_per_second:10,.0f}"
                    f" {row.p50_ms:8.2f} {row.p99_ms:8.2f}"
                )


if __name__ == "__main__":
    main()
