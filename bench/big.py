"""Big states: what 100 MB of rows do to three masters, and how soon one that was away is back.

    python bench/big.py [--rows 100000] [--folder DIR]

pause       the longest time that the leader's event loop did not turn while it took a snapshot, and the
            follower's while it was given one.
restart     from the start of the process to a recovered store, its snapshot and its log together.
catch up    a follower that was away for 100,000 entries of the store is back at the leader's version:
            once the leader still has the entries, once it has only a snapshot (of the whole big state).
            From the start of its process, its own recovery included.
memory      of leader and follower: before, and the most so far.
"""

import argparse
import asyncio
import sys
import time
from typing import Any

from node import Master, Masters, masters
from table import Gates, machine, print_table

ROW_BYTES = 1000
SMALL_BYTES = 200
ENTRIES = 100_000
AT_ONCE = 64
LIMIT_SECONDS = 300.0
NEVER = 1 << 40


def options_of(*, snapshot_every: int, kept: int) -> dict[str, Any]:
    return {
        "snapshot_every_entries": snapshot_every,
        "snapshot_bytes": NEVER,
        "kept_entries": kept,
        "kept_bytes": NEVER,
    }


async def roles(cluster: Masters) -> tuple[Master, Master]:
    """(leader, a follower)"""
    leader = await cluster.leader()
    return leader, next(master for master in cluster.all if master is not leader)


async def until_level(leader: Master, other: Master) -> None:
    """Until the other has applied all that the leader has, and lives."""
    wanted = (await leader.ask("standing"))[0]
    async with asyncio.timeout(LIMIT_SECONDS):
        while (await other.ask("standing"))[0] < wanted:
            await asyncio.sleep(0.02)


async def until_snapshots(master: Master, count: int) -> None:
    async with asyncio.timeout(LIMIT_SECONDS):
        while (await master.ask("standing"))[2] < count:
            await asyncio.sleep(0.02)


async def level_again(leader: Master, other: Master) -> float:
    began = time.perf_counter()
    await other.start()
    await other.ask("watch")
    await until_level(leader, other)
    return time.perf_counter() - began


async def by_entries(args: argparse.Namespace, gates: Gates, rows: list[list[str]]) -> None:
    async with masters(args.folder, options=options_of(snapshot_every=NEVER, kept=NEVER)) as ours:
        leader, other = await roles(ours)
        await leader.ask("fill", args.rows, ROW_BYTES)
        await until_level(leader, other)
        await other.kill()
        before = (await leader.ask("standing"))[1]
        await leader.ask("lengthen", ENTRIES, SMALL_BYTES, AT_ONCE)
        log_entries = (await leader.ask("standing"))[1] - before
        gates.at_most(
            f"catch up by {ENTRIES:,} entries of the store ({log_entries:,} of the log)",
            await level_again(leader, other),
            10.0,
            "s",
        )
        rows += [await remembered("after catching up by entries", "leader", leader)]
        rows += [await remembered("after catching up by entries", "follower", other)]


async def by_snapshot(args: argparse.Namespace, gates: Gates, rows: list[list[str]]) -> None:
    # Every 4000 log entries: none while the state is filled, some while the follower is away.
    async with masters(args.folder, options=options_of(snapshot_every=4000, kept=10)) as ours:
        leader, other = await roles(ours)
        await leader.ask("fill", args.rows, ROW_BYTES)
        await until_level(leader, other)
        rows += [await remembered("with the state", "leader", leader)]
        await leader.ask("lengthen", 4000, SMALL_BYTES, 1)
        await asyncio.sleep(1)
        await leader.ask("watch")
        await leader.ask("lengthen", 100, SMALL_BYTES, 1)
        idle = await leader.ask("pause")
        taken = (await leader.ask("standing"))[2]
        await other.kill()
        await leader.ask("lengthen", ENTRIES, SMALL_BYTES, 16)
        await until_snapshots(leader, taken + 1)
        pause = await leader.ask("pause")
        gates.at_most(
            f"pause of the leader's loop by a snapshot of {args.rows:,} rows"
            f" ({idle * 1000:.0f} ms without)",
            pause * 1000,
            100,
            "ms",
        )
        gates.at_most(
            f"catch up by a snapshot, {ENTRIES:,} entries behind",
            await level_again(leader, other),
            10.0,
            "s",
        )
        received = await other.ask("received")
        gates.check("that was by a snapshot", f"{received} received", received > 0)
        gates.at_most(
            "pause of the follower's loop by it", await other.ask("pause") * 1000, 100, "ms"
        )
        gates.at_most(
            "pause of the leader's loop by giving it", await leader.ask("pause") * 1000, 100, "ms"
        )
        rows += [await remembered("after giving a snapshot", "leader", leader)]
        rows += [await remembered("after being given it", "follower", other)]
        await other.kill()
        await other.start()
        gates.at_most("restart to a recovered store", await other.ask("started"), 5.0, "s")
        began = time.perf_counter()
        await until_level(leader, other)
        rows += [await remembered("after a restart", "follower", other)]
        print(f"      level with the leader {time.perf_counter() - began:.2f} s after that")


async def remembered(when: str, role: str, master: Master) -> list[str]:
    found = await master.ask("memory")
    return [f"{role} {when}", f"{found['now']:,.0f} MB", f"{found['most']:,.0f} MB"]


async def measure(args: argparse.Namespace) -> bool:
    gates, rows = Gates(), list[list[str]]()
    print(f"\n{args.rows:,} rows of {ROW_BYTES} bytes, three masters, {machine()}\n")
    await by_snapshot(args, gates, rows)
    await by_entries(args, gates, rows)
    print_table("memory of a master", ["whose", "now", "most"], rows)
    return not gates.missed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--folder", help="where the masters' folders are made")
    sys.exit(0 if asyncio.run(measure(parser.parse_args())) else 1)


if __name__ == "__main__":
    main()
