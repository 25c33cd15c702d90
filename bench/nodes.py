"""How soon what ran on a node that died is healthy elsewhere.

    python bench/nodes.py [--kills 10] [--with-leader] [--folder DIR]

Real masters and three workers on loopback with plain processes, at the default TTL. SIGKILL for a worker
and all replicas of its node at once; `--with-leader` adds the leader of three masters in the same moment.
Measured until as many replicas as are wanted pass their health check on other nodes, seen through the API.
The floor is the TTL, and a bare start of the same program until it answers, in the same run.
"""

import argparse
import asyncio
import contextlib
import http.client
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from table import Gates, machine, median, milliseconds, print_table, ratio, spread

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from engine import free_port
from integration.conftest import RealCluster, running
from orca.errors import OrcaError
from orca_master.app.config import MasterConfig

TTL_SECONDS = MasterConfig().node_down_after_seconds
NODES = 3
REPLICAS = 6
MOST_SECONDS = {False: 5.0, True: 8.0}
WAIT_SECONDS = 60.0
LOOK_SECONDS = 0.02
SERVE = (
    "import http.server, os;"
    "http.server.test(http.server.SimpleHTTPRequestHandler, port=int(os.environ['PORT']),"
    " bind='127.0.0.1')"
)
COMMAND = [sys.executable, "-c", SERVE]
SERVICE = {"name": "web", "command": COMMAND, "port": 8080, "health": "/", "replicas": REPLICAS}


def bare_start() -> float:
    """Seconds from exec to the first answer."""
    port = free_port()
    started = time.monotonic()
    program = subprocess.Popen(
        COMMAND,
        env=os.environ | {"PORT": str(port)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while time.monotonic() - started < WAIT_SECONDS:
            with contextlib.suppress(OSError):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                connection.request("GET", "/")
                connection.getresponse().read()
                return time.monotonic() - started
            time.sleep(0.002)
        raise TimeoutError("the program does not answer")
    finally:
        program.kill()
        program.wait()


async def nodes_of_healthy(cluster: RealCluster) -> list[str]:
    """The nodes of the replicas that pass their check; empty while no master answers."""
    with contextlib.suppress(OrcaError):
        return [t["node"] for t in (await cluster.service("web"))["tasks"] if t["healthy"]]
    return []


async def until_settled(cluster: RealCluster) -> None:
    async with asyncio.timeout(WAIT_SECONDS), cluster.client() as client:
        while True:
            with contextlib.suppress(OrcaError):
                nodes = (await client.cluster_info())["nodes"]
                settled = [n["state"] for n in nodes if n["connected"]] == ["ready"] * NODES
                if settled and len((await cluster.service("web"))["tasks"]) == REPLICAS:
                    return
            await asyncio.sleep(0.1)


async def spread_out(cluster: RealCluster) -> None:
    """A node that returned is empty: the service is begun anew, so that each node has its share."""
    async with cluster.client() as client:
        await client.scale("web", 0)
        async with asyncio.timeout(WAIT_SECONDS):
            while (await cluster.service("web"))["tasks"]:
                await asyncio.sleep(0.05)
        await client.scale("web", REPLICAS)
        async with asyncio.timeout(WAIT_SECONDS):
            while len(await nodes_of_healthy(cluster)) != REPLICAS:
                await asyncio.sleep(0.05)


def programs_of(folder: Path) -> list[psutil.Process]:
    """All processes of a node: shims, which name its folder, and what they run."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(f"{folder}/" in part for part in process.cmdline()):
                found += [process, *process.children(recursive=True)]
    return found


async def one_kill(cluster: RealCluster, *, with_leader: bool) -> float:
    """Seconds to as many healthy replicas as are wanted, on the other nodes."""
    await asyncio.sleep(random.uniform(0.0, 1.0))
    victim = random.choice(await nodes_of_healthy(cluster))
    names = [victim, await cluster.leader()] if with_leader else [victim]
    programs = programs_of(cluster.folder / victim)
    killed = time.monotonic()
    await cluster.kill(*names)
    for program in programs:
        with contextlib.suppress(psutil.NoSuchProcess):
            program.kill()
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            healthy = await nodes_of_healthy(cluster)
            if victim not in healthy and len(healthy) == REPLICAS:
                break
            await asyncio.sleep(LOOK_SECONDS)
    took = time.monotonic() - killed
    await cluster.up()
    await until_settled(cluster)
    return took


async def measure(folder: Path, kills: int, *, with_leader: bool) -> bool:
    """Whether the median is within its limit."""
    times: list[float] = []
    starts: list[float] = []
    masters = 3 if with_leader else 1
    async with running(
        folder / "orca", "process", NODES, masters=masters, down_after=TTL_SECONDS
    ) as cluster:
        async with cluster.client() as client:
            await client.deploy([SERVICE])
        for number in range(1, kills + 1):
            await until_settled(cluster)
            await spread_out(cluster)
            starts.append(await asyncio.to_thread(bare_start))
            times.append(await one_kill(cluster, with_leader=with_leader))
            print(f"kill {number}: {times[-1]:.2f} s, bare start {milliseconds(starts[-1])}")
    floor = TTL_SECONDS + median(starts)
    what = "a node and the leader" if with_leader else "a node"
    print_table(
        f"{what} killed, {kills} times: replicas healthy elsewhere ({machine()})",
        ["", "median", "best-worst ms", "of floor"],
        [
            ["floor: TTL + bare start", milliseconds(floor), spread(starts), "1.00x"],
            ["orca", milliseconds(median(times)), spread(times), ratio(median(times), floor)],
        ],
    )
    gates = Gates()
    gates.at_most("median to replace", median(times), MOST_SECONDS[with_leader], "s")
    return not gates.missed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--with-leader", action="store_true")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        is_met = asyncio.run(measure(Path(folder), options.kills, with_leader=options.with_leader))
    sys.exit(0 if is_met else 1)


if __name__ == "__main__":
    main()
