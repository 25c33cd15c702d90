"""How soon a crash is known, and how soon the replica runs again.

    python bench/crash.py [--crashes 20] [--folder DIR]

One master, one worker and a Docker engine on this machine. The one process of a container is killed from
outside (SIGKILL), as a crash; measured until the engine's own event says so (the floor, in the same run),
until the API's status says that the replica does not run, and until another one runs.
"""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from table import Gates, machine, median, milliseconds, print_table, ratio, spread

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import engine
from integration.conftest import RealCluster, running
from orca.client import Client

MOST_SECONDS = 1.0
WAIT_SECONDS = 60.0
LOOK_SECONDS = 0.005


async def until(client: Client, **wanted: Any) -> float:
    """When the status first says so, on the monotonic clock."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            (service,) = await client.status()
            if all(service[name] == value for name, value in wanted.items()):
                return time.monotonic()
            await asyncio.sleep(LOOK_SECONDS)


def die_event(url: str, container: str) -> float:
    """When the engine's event stream tells of the container's end."""
    client = engine.connect(url)
    try:
        filters = {"container": container, "event": "die"}
        for _ in client.events(filters=filters, decode=True):
            return time.monotonic()
        raise RuntimeError("the engine's events ended")
    finally:
        client.close()


async def one_crash(url: str, label: str, client: Client) -> tuple[float, float, float]:
    """Seconds until (the engine's event, the status, another replica that runs)."""
    await until(client, status="running", running_replicas=1)
    own = engine.connect(url)
    try:
        containers = own.containers(filters={"label": label, "status": "running"})
        found = max(containers, key=lambda each: each["Created"])  # the one before may still stop
        pid = int(own.inspect_container(found["Id"])["State"]["Pid"])
    finally:
        own.close()
    event = asyncio.create_task(asyncio.to_thread(die_event, url, found["Id"]))
    await asyncio.sleep(0.3)  # until it is subscribed
    started = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    known = await until(client, running_replicas=0)
    back = await until(client, status="running", running_replicas=1)
    return await event - started, known - started, back - started


async def measure(folder: Path, crashes: int) -> bool:
    url = engine.find_engine()
    if url is None:
        raise SystemExit("error: no container engine answers")
    os.environ["DOCKER_HOST"] = url
    own = engine.connect(url)
    image = engine.build_image(own, engine.image_name("crash"))
    labels: list[str] = []
    try:
        async with running(folder / "orca", "docker", 1) as cluster:
            labels.append(f"orca.cluster={cluster.cluster_id()}")
            seen = await _crash(cluster, url, image, crashes)
    finally:
        engine.clean(own, *labels, images=(image,))
        own.close()
    events, known, back = (list(each) for each in zip(*seen, strict=True))
    rows = {
        "the engine's own event (floor)": events,
        "the status says it does not run": known,
        "another one runs (back-off: 1 s)": back,
    }
    print_table(
        f"a container's process killed, {crashes} times ({machine()})",
        ["until", "median", "best-worst ms", "of floor"],
        [
            [what, milliseconds(median(each)), spread(each), ratio(median(each), median(events))]
            for what, each in rows.items()
        ],
    )
    gates = Gates()
    gates.at_most("median until it is known", median(known), MOST_SECONDS, "s")
    return not gates.missed


async def _crash(
    cluster: RealCluster, url: str, image: str, crashes: int
) -> list[tuple[float, float, float]]:
    service = {"name": "web", "image": image, "command": ["sleep", "100000"]}
    async with cluster.client() as client:
        seen = []
        for number in range(crashes):
            # Another revision each time: a replica that crashes again and again waits longer.
            await client.deploy([service | {"env": {"N": str(number)}}])
            seen.append(await one_crash(url, f"orca.cluster={cluster.cluster_id()}", client))
        return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crashes", type=int, default=20)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        is_met = asyncio.run(measure(Path(folder), options.crashes))
    sys.exit(0 if is_met else 1)


if __name__ == "__main__":
    main()
