"""How soon what ran on a machine that lost its power is healthy on the others: Orca beside Docker Swarm.

    python bench/machines.py [--kills 10] [--swarm-kills 3] [--with-leader]

Three machines as network namespaces, each with an engine of its own (Orca: a master and a worker too;
Swarm: a manager). SIGKILL for everything of one machine at once: engine, containers, worker, and with
`--with-leader` the leading master, which is then on that machine. Measured until as many replicas as are
wanted run on the others, seen through the API. Orca's replicas have passed a health check then; Swarm's
have none and are only running. Needs root, dockerd, ip, nsenter, iptables, a static busybox.
"""

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from lab import IMAGE, PORT, PrivateEngine, check_machine, clean_up_on_signals, until
from table import Gates, machine, median, milliseconds, print_table, ratio, spread

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from chaos.masters import MasterProcess
from chaos.network import Network
from chaos.workers import WorkerProcess
from orca.client import Client
from orca.errors import OrcaError

NAMES = ("a", "b", "c")
REPLICAS = 6
MEMORY_BYTES = 32 << 20
WAIT_SECONDS = 120.0
LOOK_SECONDS = 0.02
MOST_SECONDS = {False: 5.0, True: 8.0}
SERVICE = {
    "name": "web",
    "image": IMAGE,
    "port": PORT,
    "health": "/",
    "replicas": REPLICAS,
    "pull_policy": "never",
    "stop_grace_seconds": 1,
}


class Node:
    """A machine: its engine, and the worker of Orca on it."""

    def __init__(self, folder: Path, network: Network, name: str) -> None:
        self.name = name
        self.folder = folder / f"machine-{name}"
        self.folder.mkdir()
        self.engine = PrivateEngine(self.folder, network.namespace(name), exists=True)
        self.worker = WorkerProcess(
            self.folder,
            name,
            *("--runtime", "docker", "--docker-url", self.engine.url),
            host=network.address(name),
            prefix=network.prefix(name),
        )

    def die(self) -> None:
        self.worker.kill()
        self.engine.die()

    def stop(self) -> None:
        self.worker.kill()
        self.engine.stop()


@contextmanager
def nodes(folder: Path, network: Network) -> Iterator[dict[str, Node]]:
    found = {name: Node(folder, network, name) for name in NAMES}
    try:
        for node in found.values():
            node.engine.start()
        yield found
    finally:
        for node in found.values():
            node.stop()


@asynccontextmanager
async def orca(
    folder: Path, network: Network, found: dict[str, Node]
) -> AsyncIterator[dict[str, MasterProcess]]:
    masters = {
        name: MasterProcess(folder, name, host=network.address(name), prefix=network.prefix(name))
        for name in NAMES
    }
    try:
        first, *others = masters.values()
        first.start()
        await first.until_serving()
        async with Client(first.api, first.token) as client:
            for master in others:
                master.start(join=[first.api], token=await client.join_token(role="master"))
                await master.until_serving()
            apis = [master.api for master in masters.values()]
            for node in found.values():
                node.worker.start(apis, token=await client.join_token())
            await until_true(lambda: all_vote(client))
        yield masters
    finally:
        for master in masters.values():
            master.kill()


async def all_vote(client: Client) -> bool:
    roles = [each["role"] for each in (await client.masters())["masters"]]
    ready = [node["state"] for node in (await client.cluster_info())["nodes"]]
    return sorted(roles) == ["follower", "follower", "leader"] and ready == ["ready"] * 3


async def until_true(check: Callable[[], Any]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            with contextlib.suppress(OrcaError):
                if await check():
                    return
            await asyncio.sleep(LOOK_SECONDS)


async def orca_kill(
    masters: dict[str, MasterProcess], found: dict[str, Node], *, with_leader: bool
) -> float:
    first = next(iter(masters.values()))
    apis = [master.api for master in masters.values()]
    async with Client(apis, first.token) as client:

        async def healthy() -> list[str]:
            (service,) = [s for s in await client.status() if s["name"] == "web"]
            return [task["node"] for task in service["tasks"] if task["healthy"]]

        await client.scale("web", 0)
        await until_true(lambda: emptied(client))
        await client.scale("web", REPLICAS)
        await until_true(lambda: spread_out(healthy))
        leader = (await client.cluster_info())["leader"]["name"]
        victim = leader if with_leader else random.choice([n for n in NAMES if n != leader])
        await asyncio.sleep(random.uniform(0.0, 1.0))
        killed = time.monotonic()
        if with_leader:
            masters[victim].kill()
        found[victim].die()

        async def replaced() -> bool:
            where = await healthy()
            return victim not in where and len(where) == REPLICAS

        await until_true(replaced)
        took = time.monotonic() - killed
        if with_leader:
            masters[victim].start()
        await asyncio.to_thread(found[victim].engine.start)
        found[victim].worker.start(apis)
        await until_true(lambda: all_vote(client))
        return took


async def emptied(client: Client) -> bool:
    (service,) = [s for s in await client.status() if s["name"] == "web"]
    return not service["tasks"]


async def spread_out(healthy: Callable[[], Any]) -> bool:
    where = await healthy()
    return len(where) == REPLICAS and set(where) == set(NAMES)


async def measure_orca(kills: int, *, with_leader: bool) -> list[float]:
    times: list[float] = []
    with contained() as (folder, network), nodes(folder, network) as found:
        async with orca(folder, network, found) as masters:
            first = next(iter(masters.values()))
            async with Client(first.api, first.token) as client:
                answer = await client.deploy([SERVICE])
                assert not answer["errors"], answer
            for number in range(1, kills + 1):
                times.append(await orca_kill(masters, found, with_leader=with_leader))
                print(f"orca, kill {number}: {times[-1]:.2f} s", flush=True)
    return times


def measure_swarm(kills: int) -> list[float]:
    """A manager that does not lead is killed."""
    times: list[float] = []
    with contained() as (folder, network), nodes(folder, network) as found:
        first, *others = (node.engine for node in found.values())
        address = network.address("a")
        first.client.init_swarm(advertise_addr=address, listen_addr="0.0.0.0:2377")
        token = first.client.inspect_swarm()["JoinTokens"]["Manager"]
        for name, engine in zip(NAMES[1:], others, strict=True):
            engine.client.join_swarm(
                [f"{address}:2377"], token, advertise_addr=network.address(name)
            )
        ids = {name: node.engine.client.info()["Swarm"]["NodeID"] for name, node in found.items()}
        service = create_swarm_service(first)

        def running() -> list[str]:
            tasks = first.client.tasks({"service": service, "desired-state": "running"})
            return [t["NodeID"] for t in tasks if t["Status"]["State"] == "running"]

        for number in range(1, kills + 1):
            until(
                lambda: len(running()) == REPLICAS and set(running()) == set(ids.values()),
                WAIT_SECONDS,
                "spread Swarm's replicas",
            )
            victim = "c" if number % 2 else "b"
            time.sleep(random.uniform(0.0, 1.0))
            killed = time.monotonic()
            found[victim].die()
            until(
                lambda gone=ids[victim]: gone not in running() and len(running()) == REPLICAS,
                WAIT_SECONDS,
                "replace Swarm's replicas",
            )
            times.append(time.monotonic() - killed)
            print(f"swarm, kill {number}: {times[-1]:.2f} s", flush=True)
            found[victim].engine.start()
            until(
                lambda: all(n["Status"]["State"] == "ready" for n in first.client.nodes()),
                WAIT_SECONDS,
                "see the node again",
            )
            if number < kills:
                spread_swarm_anew(first, service)
    return times


def swarm_body(force: int) -> dict[str, Any]:
    return {
        "Name": "web",
        "TaskTemplate": {
            "ForceUpdate": force,
            "ContainerSpec": {
                "Image": IMAGE,
                "Env": [f"PORT={PORT}"],
                "Init": True,
                "StopGracePeriod": 1_000_000_000,
            },
        },
        "Mode": {"Replicated": {"Replicas": REPLICAS}},
    }


def create_swarm_service(engine: PrivateEngine) -> str:
    client = engine.client
    url = client._url("/services/create")
    return str(client._result(client._post_json(url, data=swarm_body(0)), True)["ID"])


def spread_swarm_anew(engine: PrivateEngine, service: str) -> None:
    """Swarm leaves a node that returned empty until the service is begun anew."""
    client = engine.client
    version = client.inspect_service(service)["Version"]["Index"]
    url = client._url(f"/services/{service}/update")
    answer = client._post_json(url, data=swarm_body(version), params={"version": version})
    client._raise_for_status(answer)


@contextmanager
def contained() -> Iterator[tuple[Path, Network]]:
    folder = Path(tempfile.mkdtemp(prefix="orca-machines-"))
    try:
        with Network(NAMES) as network:
            yield folder, network
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--swarm-kills", type=int, default=3)
    parser.add_argument("--with-leader", action="store_true")
    options = parser.parse_args()
    check_machine()
    clean_up_on_signals()
    os.environ.pop("DOCKER_HOST", None)
    times = asyncio.run(measure_orca(options.kills, with_leader=options.with_leader))
    rows = [["orca", milliseconds(median(times)), spread(times), "1.00x"]]
    if options.swarm_kills:
        swarm = measure_swarm(options.swarm_kills)
        share = ratio(median(swarm), median(times))
        rows.append(["swarm", milliseconds(median(swarm)), spread(swarm), share])
    what = "a machine and the leader on it" if options.with_leader else "a machine"
    print_table(
        f"{what} lost: replicas on the others ({machine()})",
        ["", "median", "best-worst ms", "of orca"],
        rows,
    )
    gates = Gates()
    gates.at_most("median to replace", median(times), MOST_SECONDS[options.with_leader], "s")
    sys.exit(1 if gates.missed else 0)


if __name__ == "__main__":
    main()
