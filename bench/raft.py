"""Three masters beside three etcd members, on one machine, in turns, all with fsync.

    python bench/raft.py [--rounds 5] [--seconds 3] [--callers 1 64 512] [--folder DIR]

stores  ours: the store on the replicated log, with mTLS, callers in the leader's process.
        etcd: gRPC KV/Put at the leader, without TLS, from a C client (`etcd`).
        floor: for one caller, the same messages over mTLS and the same fdatasync in bare asyncio (`floor`).
HTTP    ours: POST /api/v1/deploy?wait=false of a changed service without replicas, at the leader of
        `orca up --masters 3`: a row, an audit event and a token checked for each.
        etcd: POST /v3/kv/put at its JSON gateway. Both from the same C client.

Our callers have no front end before them and etcd's have: the first comparison is in our favour by
what gRPC costs, the second is the one that a user meets. The folder must be on the disk that is to be
measured; on a tmpfs an fsync costs nothing.
"""

import argparse
import asyncio
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import etcd
from floor import floor
from node import Load, masters
from table import Gates, machine, median, milliseconds, print_table

from orca import local
from orca.client import Client

BYTES = 200
API_PORT = 24300

DEPLOY = """
local n = 0
wrk.headers["Content-Type"] = "application/json"
function request()
  n = n + 1
  return wrk.format("POST", "/api/v1/deploy?wait=false", nil, string.format(
    '{"services":[{"name":"s%d","image":"bench:1","replicas":0,"env":{"N":"%d"}}]}', n % 100, n))
end
"""

Way = Callable[[int], Awaitable[Load]]
Found = dict[tuple[str, int], list[Load]]


@asynccontextmanager
async def our_api(folder: str | None, count: int = 3) -> AsyncIterator[tuple[str, str]]:
    """The leader's URL and a token, of a cluster as `orca up --masters` starts it."""
    path = Path(tempfile.mkdtemp(prefix="orca-bench-", dir=folder))
    try:
        cluster = await local.up(
            path, workers=0, masters=count, port=API_PORT, runtime="process", say=lambda _: None
        )
        async with Client(cluster.api, cluster.token()) as client:
            names = [
                m["name"] for m in (await client.masters())["masters"] if m["role"] == "leader"
            ]
        leader = next(p for p in cluster.processes if p.name == names[0])
        assert leader.api is not None
        yield leader.api, cluster.token()
    finally:
        local.down(path, say=lambda _: None)
        shutil.rmtree(path, ignore_errors=True)


async def in_turns(
    ways: dict[str, Way], options: argparse.Namespace, *, alone: dict[str, Way] | None = None
) -> Found:
    """`alone`: ways that are for one caller only."""
    found: Found = {}
    for number in range(options.rounds):
        for callers in options.callers:
            those = ways | (alone or {}) if callers == 1 else ways
            for name, way in sorted(those.items(), reverse=number % 2 == 1):
                found.setdefault((name, callers), []).append(await way(callers))
    return found


async def measure_stores(options: argparse.Namespace) -> Found:
    with etcd.members(options.folder) as peer:
        async with masters(options.folder) as ours, floor(options.folder, BYTES) as bare:

            async def through_floor(_: int) -> Load:
                return Load(**await bare.ask("load", options.seconds))

            async def through_ours(callers: int) -> Load:
                leader = await ours.leader()
                return Load(**await leader.ask("load", callers, options.seconds, BYTES))

            async def through_etcd(callers: int) -> Load:
                return await asyncio.to_thread(etcd.grpc_put, peer, callers, options.seconds, BYTES)

            ways: dict[str, Way] = {"orca": through_ours, "etcd": through_etcd}
            return await in_turns(ways, options, alone={"floor": through_floor})


async def measure_http(options: argparse.Namespace) -> Found:
    with etcd.members(options.folder) as peer:
        async with our_api(options.folder) as (url, token):
            bearer = {"Authorization": f"Bearer {token}"}

            async def through_ours(callers: int) -> Load:
                return await asyncio.to_thread(
                    etcd.wrk, url, callers, options.seconds, DEPLOY, bearer
                )

            async def through_etcd(callers: int) -> Load:
                return await asyncio.to_thread(
                    etcd.gateway_put, peer, callers, options.seconds, BYTES
                )

            return await in_turns({"orca": through_ours, "etcd": through_etcd}, options)


def report(title: str, found: Found, options: argparse.Namespace) -> None:
    rows = [
        [
            f"{name}, {callers:3} callers",
            f"{rate_of(found, name, callers):,.0f}",
            f"{rate_of(found, name, callers) / rate_of(found, 'etcd', callers):.2f}x",
            milliseconds(p50_of(found, name, callers)),
            milliseconds(median([load.p99 for load in found[name, callers]])),
        ]
        for name, callers in sorted(found, key=lambda way: (way[1], way[0]))
    ]
    title = f"{title}, {BYTES} bytes, medians of {options.rounds} rounds, {machine()}"
    print_table(title, ["way", "updates/s", "/etcd", "p50", "p99"], rows)


def rate_of(found: Found, name: str, callers: int) -> float:
    return median([load.rate for load in found[name, callers]])


def p50_of(found: Found, name: str, callers: int) -> float:
    return median([load.p50 for load in found[name, callers]])


def judge_stores(found: Found, gates: Gates) -> None:
    for callers in sorted({callers for _, callers in found}):
        if callers == 1:
            slower = p50_of(found, "orca", 1) / p50_of(found, "etcd", 1)
            above = p50_of(found, "orca", 1) / p50_of(found, "floor", 1)
            print(f"      stores, 1 caller: p50 beside the floor's: {above:.2f} x")
            gates.at_most("stores, 1 caller: p50 beside etcd's", slower, 1.5, "x")
        else:
            faster = rate_of(found, "orca", callers) / rate_of(found, "etcd", callers)
            gates.at_least(f"stores, {callers} callers: updates/s beside etcd's", faster, 1.0, "x")


def judge_http(found: Found, gates: Gates) -> None:
    for callers in sorted({callers for _, callers in found}):
        faster = rate_of(found, "orca", callers) / rate_of(found, "etcd", callers)
        gates.at_least(f"HTTP, {callers} callers: updates/s beside etcd's", faster, 0.7, "x")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 64, 512])
    parser.add_argument("--folder", help="where the folders of masters and members are made")
    parser.add_argument("--only", choices=("stores", "http"))
    return parser.parse_args()


def main() -> None:
    options, gates = parse(), Gates()
    etcd.check_machine()
    if options.only != "http":
        found = asyncio.run(measure_stores(options))
        report("three masters and three etcd members, the stores alone", found, options)
        judge_stores(found, gates)
    if options.only != "stores":
        found = asyncio.run(measure_http(options))
        report("three masters and three etcd members, through HTTP", found, options)
        judge_http(found, gates)
    sys.exit(1 if gates.missed else 0)


if __name__ == "__main__":
    main()
