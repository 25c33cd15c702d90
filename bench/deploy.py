"""How long from the request until 1, 10 and 30 replicas run, on one node with its own engine.

Four ways in the same run, taking turns, on the same private engine, image and container options
(a published port, a memory limit, labels, log options, an init process; no health check, and no
processor limit, which would slow the start itself and hide the rest behind that):

floor         what the engine itself takes: create + start through its API, eight at a time as
              Orca does, each pair in one thread. Another order of calls may beat it a little.
orca deploy   POST /api/v1/deploy?wait=false, then GET /api/v1/status until all replicas run.
orca scale    POST .../scale from 0, then GET /api/v1/status until all replicas run.
swarm         one service, created through the API, then its tasks polled until all of them run. Its
              image is named so that the registry's refusal comes at once.

Orca's daemons and Swarm's manager idle while the others are measured. Times are medians; those of a
busy machine are worth little alone, which is why the ratios of one run matter.
"""

import argparse
import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import SimpleNamespace

from lab import (
    IMAGE,
    POLL_SECONDS,
    PORT,
    PrivateEngine,
    Swarm,
    clean_up_on_signals,
    orca_cluster,
    private_engine,
    swarm,
)
from table import machine, median, milliseconds, print_table, ratio, spread, verdict

from orca.client import Client
from orca_proto.worker_pb2 import Resources, TaskSpec
from orca_worker.runtime.docker.engine import CALLS_AT_ONCE
from orca_worker.runtime.docker.spec import create_config

SIZES = (1, 10, 30)
WAYS = ("floor", "orca deploy", "orca scale", "swarm")
MEMORY_BYTES = 64 << 20
EXTRA_FOR_ONE_SECONDS = 0.100
MOST_OVER_FLOOR = 1.15
PAUSE_SECONDS = 0.5


class Floor:
    """The engine's own verbs, with the body that Orca's runtime sends."""

    def __init__(self, engine: PrivateEngine, threads: ThreadPoolExecutor) -> None:
        self._engine = engine
        self._threads = threads

    def run(self, replicas: int) -> float:
        started = time.monotonic()
        list(self._threads.map(self._run_one, range(replicas)))
        took = time.monotonic() - started
        self._engine.remove_containers()
        return took

    def _run_one(self, number: int) -> None:
        spec = TaskSpec(
            image=IMAGE,
            port=PORT,
            limits=Resources(memory_bytes=MEMORY_BYTES),
        )
        labels = {
            "orca.cluster": "floor",
            "orca.node": "floor",
            "orca.project": "default",
            "orca.service": "floor",
            "orca.revision": "1",
            "orca.task": f"{number:016x}",
        }
        config = create_config(spec, labels, init=True, publish_address="127.0.0.1")
        client = self._engine.client
        answer = client.create_container_from_config(config, f"orca-floor-{number}")
        client.start(answer["Id"])


class Orca:
    def __init__(self, engine: PrivateEngine, client: Client) -> None:
        self._engine = engine
        self._client = client

    async def deploy(self, replicas: int) -> float:
        """From the request to all replicas running, not to the answer: a service without a health
        check is called deployed only after it has run for a moment."""
        started = time.monotonic()
        answer = await self._client.deploy([self._service(replicas)], wait=False)
        if answer["errors"]:
            raise RuntimeError(answer["errors"])
        took = await self._until_running(replicas, started)
        await self._remove()
        return took

    async def scale(self, replicas: int) -> float:
        await self._client.deploy([self._service(0)])
        started = time.monotonic()
        await self._client.scale("web", replicas)
        took = await self._until_running(replicas, started)
        await self._remove()
        return took

    async def _until_running(self, replicas: int, started: float) -> float:
        while (service := (await self._client.status())[0])["running_replicas"] < replicas:
            if service["status"] == "failed":
                raise RuntimeError(service["reason"])
            await asyncio.sleep(POLL_SECONDS)
        return time.monotonic() - started

    async def _remove(self) -> None:
        await self._client.stop("web", purge=True)
        while await self._client.status():
            await asyncio.sleep(POLL_SECONDS)
        self._engine.until_empty()

    def _service(self, replicas: int) -> dict[str, object]:
        return {
            "name": "web",
            "image": IMAGE,
            "port": PORT,
            "replicas": replicas,
            "resources": {"memory": str(MEMORY_BYTES)},
        }


def run_swarm(swarm: Swarm, replicas: int) -> float:
    started = time.monotonic()
    service = swarm.create("web", replicas, memory_bytes=MEMORY_BYTES)
    swarm.until_running(service, replicas)
    took = time.monotonic() - started
    swarm.remove(service)
    return took


async def measure(
    floor: Floor, orca: Orca, manager: Swarm | None, *, sizes: list[int], repeats: int
) -> dict[tuple[str, int], list[float]]:
    ways = [way for way in WAYS if manager is not None or way != "swarm"]
    times: dict[tuple[str, int], list[float]] = {(w, n): [] for w in ways for n in sizes}
    for replicas in sizes:
        for repeat in range(-1, repeats):  # the first round only warms up
            turn = repeat % len(ways)
            for way in ways[turn:] + ways[:turn]:
                await asyncio.sleep(PAUSE_SECONDS)
                if way == "floor":
                    took = floor.run(replicas)
                elif way == "orca deploy":
                    took = await orca.deploy(replicas)
                elif way == "orca scale":
                    took = await orca.scale(replicas)
                else:
                    assert manager is not None
                    took = run_swarm(manager, replicas)
                if repeat >= 0:
                    times[way, replicas].append(took)
    return times


def report(times: dict[tuple[str, int], list[float]], sizes: list[int], repeats: int) -> None:
    rows = []
    for replicas in sizes:
        floor = median(times["floor", replicas])
        swarm_times = times.get(("swarm", replicas))
        peer = median(swarm_times) if swarm_times else None
        if replicas == 1:
            target, words = floor + EXTRA_FOR_ONE_SECONDS, "floor + 100 ms"
        else:
            target, words = floor * MOST_OVER_FLOOR, f"{MOST_OVER_FLOOR:.2f}x floor"
        for way in WAYS:
            if (way, replicas) not in times:
                continue
            samples = times[way, replicas]
            value = median(samples)
            is_orca = way.startswith("orca")
            rows.append(
                [
                    f"{replicas:2} {way}",
                    milliseconds(value),
                    spread(samples),
                    f"{(value - floor) * 1000:+,.0f} ms",
                    ratio(value, floor),
                    ratio(value, peer) if peer else "",
                    f"{words}: {verdict(value <= target)}" if is_orca else "",
                    f"< swarm: {verdict(value < peer)}" if is_orca and peer else "",
                ]
            )
    header = ["replicas", "median", "range ms", "over floor", "/floor", "/swarm", "target", ""]
    print_table(f"create to running, {repeats} rounds, {machine()}", header, rows)


async def main(options: SimpleNamespace) -> None:
    with private_engine() as engine, ExitStack() as held:
        threads = held.enter_context(ThreadPoolExecutor(CALLS_AT_ONCE))
        manager = held.enter_context(swarm(engine)) if options.swarm else None
        async with orca_cluster(engine) as (client, _):
            times = await measure(
                Floor(engine, threads),
                Orca(engine, client),
                manager,
                sizes=options.sizes,
                repeats=options.repeats,
            )
        report(times, options.sizes, options.repeats)


def parse() -> SimpleNamespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="2 rounds instead of 5")
    parser.add_argument("--repeats", type=int, help="so many rounds")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), metavar="N")
    parser.add_argument("--no-swarm", dest="swarm", action="store_false")
    options = parser.parse_args(namespace=SimpleNamespace())
    options.repeats = options.repeats or (2 if options.quick else 5)
    return options


if __name__ == "__main__":
    clean_up_on_signals()
    asyncio.run(main(parse()))
