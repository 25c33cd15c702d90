"""How long a rolling update of ten replicas takes, health-checked, on one node with its own engine.

Three ways in the same run, one after the other, on the same private engine and image:

orca           a change of the environment with the defaults: a quarter at a time, start-first, each new
               replica ready (GET / answers) before the old one of its slot stops.
swarm          the service as Docker makes it: one at a time, stop-first, five seconds of monitoring.
swarm, fast    its fastest setting that keeps every replica: start-first, three at a time, no delay, and
               as little monitoring as it takes.

Swarm's tasks have a health check that runs every 100 ms inside the container; Orca asks over HTTP from
outside. From the request until ten replicas of the new version run and none of the old is left.

And how soon one replica of a new service counts as healthy after its container answers HTTP, which is asked
every few milliseconds from outside: the floor of any health check. What a probe over HTTP costs is measured
beside it, as the worker asks it: asked more often while a replica starts, it is found sooner.

All of it runs in one network namespace, as on one machine: the checks come from where the engine is.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import time
from contextlib import suppress
from types import SimpleNamespace
from typing import Any
from urllib.request import urlopen

from lab import (
    IMAGE,
    POLL_SECONDS,
    PORT,
    PrivateEngine,
    check_machine,
    clean_up_on_signals,
    orca_cluster,
    private_engine,
    swarm,
    until,
)
from table import Gates, machine, median, milliseconds, print_table, ratio, spread

from orca.client import Client
from orca_proto import worker_pb2 as pb
from orca_worker.checks import Check, Kind
from orca_worker.prober import NetworkProber

REPLICAS = 10
SECOND = 1_000_000_000
PATIENCE_SECONDS = 300.0
GRACE_SECONDS = 1
LOOPBACK = "127.0.0.1"


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
        ask = rf"printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 1 127.0.0.1 {PORT}"
        test = ["CMD-SHELL", ask]
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


MOST_SECONDS_TO_HEALTHY = 0.15
PROBES = 200
STARTS_SECONDS = (1.0, 10.0)
"""For which the cost of asking is told."""


async def healthy_after(engine: PrivateEngine, client: Client, number: int) -> tuple[float, float]:
    """Seconds from the first answer of a new service's container until its status says running; and what
    a probe of it costs."""
    name = f"one-{number}"
    service = {
        "name": name,
        "image": IMAGE,
        "port": PORT,
        "health": "/",
        "stop_grace_seconds": GRACE_SECONDS,
    }
    answers = asyncio.create_task(asyncio.to_thread(first_answer, engine))
    await client.deploy([service], wait=False)
    while (await client.status())[0]["status"] != "running":
        await asyncio.sleep(POLL_SECONDS / 2)
    healthy = time.monotonic()
    took = healthy - await answers
    cost = await probe_cost(published_port(engine))
    await client.stop(name, purge=True)
    while await client.status():
        await asyncio.sleep(POLL_SECONDS)
    await asyncio.to_thread(engine.until_empty)
    return took, cost


async def probe_cost(port: int) -> float:
    """Seconds of the processor that one probe takes of this process."""
    prober = NetworkProber()
    probe = pb.Probe(path="/", timeout_seconds=PATIENCE_SECONDS)
    began = time.process_time()
    for _ in range(PROBES):
        if (failure := await prober.check(probe, LOOPBACK, port)) is not None:
            raise RuntimeError(failure)
    return (time.process_time() - began) / PROBES


def probes_of_a_start(seconds: float) -> int:
    """How often a replica that needs so long to start is asked."""
    check = Check(Kind.READINESS, pb.Probe(path="/", interval_seconds=10.0), 0.0)
    now = 0.0
    while now < seconds:
        now += check.wait_seconds
        check.take("refused", now)
    return check.asked


def published_port(engine: PrivateEngine) -> int:
    """Of the only container of the engine; 0: it has none yet."""
    ports = [port for each in engine.client.containers() for port in each["Ports"]]
    return next((int(port["PublicPort"]) for port in ports if "PublicPort" in port), 0)


def first_answer(engine: PrivateEngine) -> float:
    """When the only container of the engine first answers, on the monotonic clock."""
    until(lambda: published_port(engine) > 0, PATIENCE_SECONDS, "publish the container's port")
    url = f"http://{LOOPBACK}:{published_port(engine)}/"
    until(lambda: _answers(url), PATIENCE_SECONDS, "get an answer of the container")
    return time.monotonic()


def _answers(url: str) -> bool:
    with suppress(OSError), urlopen(url, timeout=1.0) as answer:
        return bool(answer.status == 200)
    return False


async def orca_times(
    engine: PrivateEngine, options: SimpleNamespace
) -> tuple[list[float], list[tuple[float, float]]]:
    """Of the updates; and from a container's answer to a healthy replica, with what a probe costs."""
    async with orca_cluster(engine) as (client, _):
        healthy = [await healthy_after(engine, client, n) for n in range(options.starts)]
        orca = Orca(engine, client)
        await orca.start()
        await orca.update()  # only warms up
        updates = [await orca.update() for _ in range(options.repeats)]
        await orca.stop()
    return updates, healthy


def swarm_times(engine: PrivateEngine, config: dict[str, Any] | None, repeats: int) -> list[float]:
    peer = Swarm(engine, config)
    peer.start()
    try:
        return [peer.update() for _ in range(repeats)]
    finally:
        peer.stop()


async def measure(options: SimpleNamespace) -> None:
    times: dict[str, list[float]] = {}
    with private_engine(options.namespace) as engine, swarm(engine):
        times["orca"], healthy = await orca_times(engine, options)
        for way, config, repeats in (
            ("swarm", None, min(options.repeats, 2)),
            ("swarm, fast", FASTEST, options.repeats),
        ):
            times[way] = await asyncio.to_thread(swarm_times, engine, config, repeats)
    tell(times, healthy, options)


def tell(
    times: dict[str, list[float]], starts: list[tuple[float, float]], options: SimpleNamespace
) -> None:
    healthy, costs = ([each[part] for each in starts] for part in (0, 1))
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
    title = f"from a container's first answer to a healthy replica, {options.starts} deploys"
    print_table(
        title,
        ["", "median", "range ms"],
        [["orca", milliseconds(median(healthy)), spread(healthy)]],
    )
    cost = median(costs)
    told = [
        f"{probes_of_a_start(seconds)} in a start of {seconds:g} s:"
        f" {100 * probes_of_a_start(seconds) * cost / seconds:.2f} % of a processor"
        for seconds in STARTS_SECONDS
    ]
    print(f"\na probe over HTTP takes {cost * 1e6:.0f} µs of the processor; {'; '.join(told)}\n")
    gates = Gates()
    for way in ("swarm", "swarm, fast"):
        gates.check(
            f"faster than {way}", ratio(mine, median(times[way])), mine < median(times[way])
        )
    gates.at_most("median to healthy", median(healthy), MOST_SECONDS_TO_HEALTHY, "s")
    sys.exit(1 if gates.missed else 0)


def inside_a_namespace(words: list[str]) -> int:
    """This program again, in a network namespace of its own; its exit code."""
    check_machine()
    namespace = f"orca-rollout-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", namespace], check=True)
    try:
        # Not `ip netns exec`: that would hide the control groups from the engine.
        command = ["nsenter", f"--net=/run/netns/{namespace}", sys.executable, __file__]
        return subprocess.run([*command, *words, "--namespace", namespace], check=False).returncode
    finally:
        subprocess.run(["ip", "netns", "del", namespace], check=False)


def main() -> None:
    clean_up_on_signals()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--starts", type=int, default=11)
    parser.add_argument("--namespace", help=argparse.SUPPRESS)
    options = parser.parse_args(namespace=SimpleNamespace())
    if options.namespace is None:
        sys.exit(inside_a_namespace(sys.argv[1:]))
    asyncio.run(measure(options))


if __name__ == "__main__":
    main()
