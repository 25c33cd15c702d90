"""How long a rolling update of ten replicas takes, health-checked, on one node with its own engine.

Three ways in the same run, taking turns, on the same private engine and image:

orca           a change of the environment with the defaults: a quarter at a time, start-first, each new
               replica ready (GET / answers) before the old one of its slot stops.
swarm          the service as Docker makes it: one at a time, stop-first, five seconds of monitoring.
swarm, fast    its fastest setting that keeps every replica: start-first, three at a time, no delay, and
               as little monitoring as it takes.

Swarm's tasks have a health check that runs every 100 ms inside the container; Orca asks over HTTP from
outside. From the request until ten replicas of the new version run and none of the old is left.
"""

import argparse
import asyncio
import time
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

from lab import (
    IMAGE,
    POLL_SECONDS,
    PORT,
    PrivateEngine,
    clean_up_on_signals,
    orca_cluster,
    private_engine,
    swarm,
    until,
)
from table import Gates, machine, median, print_table, ratio

from orca.client import Client

REPLICAS = 10
SECOND = 1_000_000_000
PATIENCE_SECONDS = 300.0
GRACE_SECONDS = 1


class Orca:
    def __init__(self, engine: PrivateEngine, client: Client) -> None:
        self._engine = engine
        self._client = client
        self._version = 0

    def _service(self) -> dict[str, Any]:
        return {
            "name": "web",
            "image": IMAGE,
            "port": PORT,
            "health": "/",
            "replicas": REPLICAS,
            "stop_grace_seconds": GRACE_SECONDS,
            "env": {"VERSION": str(self._version)},
        }

    async def start(self) -> None:
        answer = await self._client.deploy([self._service()], timeout=PATIENCE_SECONDS)
        if answer["errors"]:
            raise RuntimeError(answer["errors"])

    async def update(self) -> float:
        self._version += 1
        started = time.monotonic()
        await self._client.deploy([self._service()], wait=False)
        while True:
            (service,) = await self._client.status()
            tasks = service["tasks"]
            is_new = all(task["revision"] == service["revision"] for task in tasks)
            if service["status"] == "running" and is_new and len(tasks) == REPLICAS:
                return time.monotonic() - started
            await asyncio.sleep(POLL_SECONDS)

    async def stop(self) -> None:
        await self._client.stop("web", purge=True)
        while await self._client.status():
            await asyncio.sleep(POLL_SECONDS)
        self._engine.until_empty()


class Swarm:
    """`config`: the service's UpdateConfig; None: what Docker takes by itself."""

    def __init__(self, engine: PrivateEngine, config: dict[str, Any] | None) -> None:
        self._client = engine.client
        self._engine = engine
        self._config = config
        self._version = 0
        self._id = ""

    def _body(self) -> dict[str, Any]:
        test = ["CMD-SHELL", f"nc -z 127.0.0.1 {PORT}"]
        health = {"Test": test, "Interval": SECOND // 10, "Timeout": SECOND, "Retries": 3}
        body: dict[str, Any] = {
            "Name": "web",
            "TaskTemplate": {
                "ContainerSpec": {
                    "Image": IMAGE,
                    "Env": [f"PORT={PORT}", f"VERSION={self._version}"],
                    "Init": True,
                    "StopGracePeriod": GRACE_SECONDS * SECOND,
                    "Healthcheck": health,
                }
            },
            "Mode": {"Replicated": {"Replicas": REPLICAS}},
        }
        return body | ({"UpdateConfig": self._config} if self._config is not None else {})

    def start(self) -> None:
        url = self._client._url("/services/create")
        answer = self._client._result(self._client._post_json(url, data=self._body()), True)
        self._id = str(answer["ID"])
        until(lambda: self._running() == REPLICAS, PATIENCE_SECONDS, "run the Swarm service")

    def _running(self) -> int:
        """Tasks of the newest version that run; none, as long as one of an older version does."""
        tasks = self._client.tasks({"service": self._id})
        running = [task for task in tasks if task["Status"]["State"] == "running"]
        wanted = f"VERSION={self._version}"
        new = [task for task in running if wanted in task["Spec"]["ContainerSpec"]["Env"]]
        return len(new) if len(new) == len(running) else 0

    def update(self) -> float:
        self._version += 1
        version = self._client.inspect_service(self._id)["Version"]["Index"]
        url = self._client._url("/services/{0}/update", self._id)
        started = time.monotonic()
        answer = self._client._post_json(url, data=self._body(), params={"version": version})
        self._client._raise_for_status(answer)
        until(lambda: self._running() == REPLICAS, PATIENCE_SECONDS, "update the Swarm service")
        return time.monotonic() - started

    def stop(self) -> None:
        self._client.remove_service(self._id)
        self._engine.until_empty()


FASTEST = {
    "Parallelism": 3,
    "Order": "start-first",
    "Delay": 0,
    "Monitor": 1,
    "FailureAction": "rollback",
}


async def main(options: SimpleNamespace) -> None:
    times: dict[str, list[float]] = {"orca": [], "swarm": [], "swarm, fast": []}
    with private_engine() as engine, ExitStack() as held:
        held.enter_context(swarm(engine))
        async with orca_cluster(engine) as (client, _):
            orca = Orca(engine, client)
            await orca.start()
            for repeat in range(-1, options.repeats):  # the first only warms up
                took = await orca.update()
                if repeat >= 0:
                    times["orca"].append(took)
            await orca.stop()
            for way, config in (("swarm", None), ("swarm, fast", FASTEST)):
                peer = Swarm(engine, config)
                peer.start()
                for _ in range(options.repeats if config else min(options.repeats, 2)):
                    times[way].append(await asyncio.to_thread(peer.update))
                peer.stop()
    mine = median(times["orca"])
    rows = [
        [
            way,
            f"{median(samples):.1f} s",
            f"{min(samples):.1f}-{max(samples):.1f}",
            ratio(mine, median(samples)),
        ]
        for way, samples in times.items()
    ]
    title = f"rolling update of {REPLICAS}, {options.repeats} rounds, {machine()}"
    print_table(title, ["", "median", "range s", "orca takes"], rows)
    gates = Gates()
    for way in ("swarm", "swarm, fast"):
        gates.check(
            f"faster than {way}", ratio(mine, median(times[way])), mine < median(times[way])
        )


if __name__ == "__main__":
    clean_up_on_signals()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    asyncio.run(main(parser.parse_args(namespace=SimpleNamespace())))
