"""Commits per second through the store and its one-disk log, for 1, 64 and 512 callers at once.

Each caller writes one row of about 200 bytes, waits until it is durable, and goes on with the next.
Beside it, in the same run, on the same disk, taking turns:

fdatasync        a bare loop that appends 200 bytes and calls fdatasync: one caller cannot be faster.
sqlite           WAL with synchronous=FULL, one row per transaction.
sqlite, grouped  the same, as many rows per transaction as the store has callers.

Latency is from asking to durable. For a group it is that of the whole group.

Then one caller through HTTP, on a daemon of its own: a deploy that changes a row and adds an audit event,
beside a request that writes nothing (its status) and the bare loop. The three masters and their peer
are in `raft`, large states in `big`.
"""

import argparse
import asyncio
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import etcd
import msgspec
from raft import DEPLOY, our_api
from table import Gates, machine, median, milliseconds, percentile, print_table

from orca_common.logs import configure_logs
from orca_common.real import real_env
from orca_master.state.solo.log import SoloLog
from orca_master.state.store import Store
from orca_master.state.table import Schema, Table

CALLERS = (1, 64, 512)
ROW_BYTES = 200
KEYS = 10_000


class Row(msgspec.Struct, frozen=True):
    id: str
    data: bytes


ROWS = Table("rows", Row, key=lambda row: (row.id,))


class Result:
    """Rounds of one way: commits per second, and every latency."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.latencies: list[float] = []

    def add(self, latencies: list[float], commits: int, seconds: float) -> None:
        self.rates.append(commits / seconds)
        self.latencies += latencies


async def through_store(folder: Path, callers: int, seconds: float, result: Result) -> None:
    store = Store(
        real_env(),
        SoloLog(real_env(), str(folder), cluster_id="bench", member_name="bench"),
        Schema(ROWS),
    )
    await store.start()
    latencies: list[float] = []
    until = time.monotonic() + seconds

    async def caller(number: int) -> None:
        count = number
        while (started := time.monotonic()) < until:
            count += callers
            row = Row(f"{count % KEYS:08}", os.urandom(ROW_BYTES))
            await store.update(lambda tx: tx.put(ROWS, row))  # noqa: B023 (done before the next)
            latencies.append(time.monotonic() - started)

    with suppress(asyncio.CancelledError):
        async with asyncio.TaskGroup() as group:
            running = group.create_task(store.run())
            began = time.monotonic()
            async with asyncio.TaskGroup() as callers_group:
                for number in range(callers):
                    callers_group.create_task(caller(number))
            took = time.monotonic() - began
            running.cancel()
    await store.close()
    result.add(latencies, len(latencies), took)


def repeated(work: Callable[[], None], rows: int, seconds: float, result: Result) -> None:
    latencies = []
    began = time.monotonic()
    while (started := time.monotonic()) < began + seconds:
        work()
        latencies.append(time.monotonic() - started)
    result.add(latencies, len(latencies) * rows, time.monotonic() - began)


def through_fdatasync(folder: Path, seconds: float, result: Result) -> None:
    fd = os.open(folder / "bare", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)

    def work() -> None:
        os.write(fd, os.urandom(ROW_BYTES))
        os.fdatasync(fd)

    try:
        repeated(work, 1, seconds, result)
    finally:
        os.close(fd)


def through_sqlite(folder: Path, rows: int, seconds: float, result: Result) -> None:
    database = sqlite3.connect(folder / "sqlite", isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE IF NOT EXISTS rows (id TEXT PRIMARY KEY, data BLOB)")
    count = 0

    def work() -> None:
        nonlocal count
        database.execute("BEGIN")
        for _ in range(rows):
            count += 1
            database.execute(
                "INSERT OR REPLACE INTO rows VALUES (?, ?)",
                (f"{count % KEYS:08}", os.urandom(ROW_BYTES)),
            )
        database.execute("COMMIT")

    try:
        repeated(work, rows, seconds, result)
    finally:
        database.close()


def ways_of(folder: Path, callers: int, seconds: float) -> dict[str, Callable[[Result], None]]:
    """What is compared for so many callers, by the name in the table."""

    def store(result: Result) -> None:
        asyncio.run(through_store(folder / "log", callers, seconds, result))

    ways: dict[str, Callable[[Result], None]] = {
        f"orca store, {callers:3} callers": store,
        f"sqlite, {callers:3} rows per commit": partial(through_sqlite, folder, callers, seconds),
    }
    if callers == 1:
        ways["bare fdatasync"] = partial(through_fdatasync, folder, seconds)
    return ways


def main(options: SimpleNamespace) -> None:
    configure_logs(level="error", as_json=False)
    results: dict[str, Result] = {}
    for number in range(options.repeats):
        for callers in CALLERS:
            with tempfile.TemporaryDirectory(prefix="orca-bench-", dir=options.folder) as name:
                ways = list(ways_of(Path(name), callers, options.seconds).items())
                for way, work in ways if number % 2 else reversed(ways):
                    work(results.setdefault(way, Result()))
    report(results, options)
    gates = Gates()
    asyncio.run(through_http(options, gates))
    sys.exit(1 if gates.missed else 0)


STATUS = """
function request() return wrk.format("GET", "/api/v1/status") end
"""


async def through_http(options: SimpleNamespace, gates: Gates) -> None:
    """At most 1.5 times what the disk and HTTP cost without us."""
    bare, asked, deployed = Result(), list[float](), list[float]()
    with tempfile.TemporaryDirectory(prefix="orca-bench-", dir=options.folder) as name:
        async with our_api(options.folder, count=1) as (url, token):
            bearer = {"Authorization": f"Bearer {token}"}
            for _ in range(options.repeats):
                through_fdatasync(Path(name), options.seconds, bare)
                for script, found in ((STATUS, asked), (DEPLOY, deployed)):
                    load = await asyncio.to_thread(
                        etcd.wrk, url, 1, options.seconds, script, bearer
                    )
                    found.append(load.p50)
    floor = percentile(bare.latencies, 50) + median(asked)
    took = median(deployed)
    gates.at_most(
        f"solo through HTTP, 1 caller: {milliseconds(took)} beside {milliseconds(floor)}"
        " for an fdatasync and a request",
        took / floor,
        1.5,
        "x",
    )


def report(results: dict[str, Result], options: SimpleNamespace) -> None:
    bare = median(results["bare fdatasync"].rates)
    rows = [
        [
            way,
            f"{median(result.rates):,.0f}",
            f"{median(result.rates) / bare:.2f}x",
            milliseconds(percentile(result.latencies, 50)),
            milliseconds(percentile(result.latencies, 99)),
        ]
        for way, result in sorted(results.items())
    ]
    title = f"durable rows of {ROW_BYTES} bytes, {options.repeats} rounds, {machine()}"
    print_table(title, ["way", "rows/s", "/bare", "p50", "p99"], rows)


def parse() -> SimpleNamespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="2 short rounds instead of 5")
    parser.add_argument("--folder", help="on which disk (the folder for temporary files)")
    options = parser.parse_args(namespace=SimpleNamespace())
    options.repeats = 2 if options.quick else 5
    options.seconds = 1.0 if options.quick else 2.0
    return options


if __name__ == "__main__":
    main(parse())
