"""How soon a delivery is acknowledged, and how soon what it brings runs.

At 200 a second, beside a bare commit of the same master: one master with its log on this disk, in
processes of its own, without workers: every delivery is signed as GitHub signs, is of another commit, and
is kept durably before it is answered. A bare commit is a deploy that changes one field of one row and
nothing that runs, at the same rate.

Then, on this machine's own container engine and a registry on loopback, from sending one delivery until a
replica of the new revision runs, its image being there: with the commit in the image's name, and by the
digest of what a tag names, which the registry is asked for.
"""

import argparse
import asyncio
import hashlib
import hmac
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import docker
from table import Gates, machine, median, milliseconds, percentile, print_table, spread

from orca import local
from orca.client import Client

sys.path.append(str(Path(__file__).parent.parent / "tests"))
import engine

SECRET = "a-secret-of-this-benchmark"
MOST_SECONDS = 1.5
POLL_SECONDS = 0.01
PAUSE_SECONDS = 2.0


def delivery(number: int) -> tuple[bytes, dict[str, str]]:
    push = {
        "ref": "refs/heads/main",
        "after": f"{number:040x}",
        "repository": {"full_name": "shop/web"},
        "head_commit": {"message": "x" * 200, "author": {"name": "Ada"}},
        "commits": [],
    }
    body = json.dumps(push).encode()
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    return body, {
        "Content-Type": "application/json",
        "X-GitHub-Event": "push",
        "X-Hub-Signature-256": f"sha256={signature}",
    }


async def at_rate(
    count: int, per_second: float, ask: "asyncio.Future[None] | object"
) -> list[float]:
    """Seconds that each took, begun at even times whatever those before take."""
    took: list[float] = []

    async def one(number: int) -> None:
        started = time.monotonic()
        await ask(number)
        took.append(time.monotonic() - started)

    begin = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            await asyncio.sleep(max(0.0, begin + number / per_second - time.monotonic()))
            group.create_task(one(number))
    return took


async def measure(options: SimpleNamespace, folder: Path) -> dict[str, list[float]]:
    cluster = await local.up(
        folder, workers=0, masters=1, port=options.port, runtime="process", say=lambda _: None
    )
    api, token = cluster.api[0], cluster.token()
    async with Client(api, token) as client:
        service = {"name": "web", "image": "app:1", "replicas": 0}
        await client.deploy([service], wait=False)
        webhook = {"repo": "shop/web", "service_name": "web", "secret": SECRET}
        await client.add_webhook(webhook | {"image": "app:{short_sha}"})
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession() as session:

        async def change(number: int) -> None:
            service = {"name": "web", "image": "app:1", "replicas": 0}
            body = {"services": [service | {"drain": {"max_parallel": 1 + number % 2}}]}
            path = f"{api}/api/v1/deploy?wait=false"
            async with session.post(path, json=body, headers=headers) as answer:
                assert answer.status == 202, await answer.text()

        async def push(number: int) -> None:
            body, signed = delivery(number)
            path = f"{api}/api/v1/webhooks/github"
            async with session.post(path, data=body, headers=signed) as answer:
                assert answer.status in (200, 202), await answer.text()

        count = round(options.seconds * options.rate)
        await at_rate(50, options.rate, change)
        found = {"bare commit": await at_rate(count, options.rate, change)}
        found["delivery"] = await at_rate(count, options.rate, push)
    return found


class Images:
    """Of one repository in a registry and on the engine: each commit brings one that is another one."""

    def __init__(self, client: docker.APIClient, registry: str) -> None:
        self._client = client
        self.repository = f"{registry}/bench/web"
        self._made: list[str] = []
        self._first = engine.build_image(client, f"{self.repository}:main")

    def bring(self, number: int) -> str:
        """Push what commit `number` builds, as its own tag and as `main`, and have it here. Its tag."""
        tag = f"{number:040x}"[:7]
        named = f"{self.repository}:{tag}"
        container = self._client.create_container(self._first, labels={"orca.task": "none"})
        change = f"ENV COMMIT={number}"
        self._client.commit(container["Id"], self.repository, tag, changes=[change])
        self._client.remove_container(container["Id"])
        self._client.tag(named, self.repository, "main")
        for each in (tag, "main"):
            engine.push_image(self._client, named, f"{self.repository}:{each}")
            self._client.pull(self.repository, each)
        self._made.append(named)
        return tag

    def clean(self) -> None:
        images = (*self._made, f"{self.repository}:main")
        engine.clean(self._client, "orca.task=none", images=images)


@contextmanager
def images() -> Iterator[tuple[str, Images]]:
    """The engine's address, and images."""
    url = engine.find_engine()
    if url is None or not engine.Registry.is_installed():
        raise SystemExit("this half needs a container engine and docker-registry (or --deploys 0)")
    client = engine.connect(url)
    with engine.Registry() as registry:
        made = Images(client, registry.address)
        try:
            yield url, made
        finally:
            made.clean()
            client.close()


@asynccontextmanager
async def running(folder: Path, url: str, port: int) -> AsyncIterator[tuple[str, Client]]:
    os.environ["DOCKER_HOST"] = url
    try:
        cluster = await local.up(
            folder, workers=1, masters=1, port=port, runtime="docker", say=lambda _: None
        )
        async with Client(cluster.api[0], cluster.token()) as client:
            yield cluster.api[0], client
            await client.stop_all(purge=True)
            while await client.status():
                await asyncio.sleep(POLL_SECONDS)
    finally:
        await asyncio.to_thread(local.down, folder, say=lambda _: None)


async def until_running(client: Client, before: int) -> None:
    """A replica of a revision after that one runs."""
    while True:
        (service,) = await client.status()
        tasks = service["tasks"]
        if any(task["revision"] > before and task["state"] == "running" for task in tasks):
            return
        if service["status"] == "failed":
            raise RuntimeError(service["reason"])
        await asyncio.sleep(POLL_SECONDS)


async def settled(client: Client) -> int:
    """The revision, once only its replica is left."""
    while True:
        (service,) = await client.status()
        if service["status"] == "running" and len(service["tasks"]) == 1:
            return int(service["revision"])
        await asyncio.sleep(POLL_SECONDS)


async def push_to_running(api: str, client: Client, number: int) -> float:
    before = await settled(client)
    await asyncio.sleep(PAUSE_SECONDS)
    body, signed = delivery(number)
    path = f"{api}/api/v1/webhooks/github"
    started = time.monotonic()
    async with (
        aiohttp.ClientSession() as session,
        session.post(path, data=body, headers=signed) as answer,
    ):
        assert answer.status == 202, await answer.text()
    await until_running(client, before)
    return time.monotonic() - started


async def measure_deploys(options: SimpleNamespace, folder: Path) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    with images() as (url, made):
        service = {"name": "web", "image": f"{made.repository}:main", "port": 8080}
        ways = {"commit in the name": f"{made.repository}:{{short_sha}}", "digest of a tag": ""}
        async with running(folder, url, options.port) as (api, client):
            for way, template in ways.items():
                assert (await client.deploy([service]))["errors"] == []
                webhook = {"repo": "shop/web", "service_name": "web", "secret": SECRET}
                hook = await client.add_webhook(webhook | {"image": template})
                samples = found[way] = []
                for turn in range(1, options.deploys + 1):
                    number = (turn + len(found) * 1000) << 136  # other first digits each time
                    await asyncio.to_thread(made.bring, number)
                    samples.append(await push_to_running(api, client, number))
                await settled(client)
                await client.remove_webhook(hook["id"])
    return found


async def main(options: SimpleNamespace) -> None:
    gates = Gates()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "orca"
        folder.mkdir()
        try:
            found = await measure(options, folder)
        finally:
            await asyncio.to_thread(local.down, folder, say=lambda _: None)
    rows = [
        [way, *(milliseconds(percentile(samples, p)) for p in (50, 95, 99))]
        for way, samples in found.items()
    ]
    print_table(f"at {options.rate:g} a second, {machine()}", ["", "p50", "p95", "p99"], rows)
    beyond = percentile(found["delivery"], 99) - percentile(found["bare commit"], 99)
    gates.at_most("p99 beyond a bare commit", beyond * 1000, 25.0, "ms")
    if not options.deploys:
        return
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "orca"
        folder.mkdir()
        found = await measure_deploys(options, folder)
    rows = [[way, milliseconds(median(samples)), spread(samples)] for way, samples in found.items()]
    title = f"from a delivery to its revision running, {options.deploys} each, {machine()}"
    print_table(title, ["image", "median", "ms"], rows)
    for way, samples in found.items():
        gates.at_most(f"push to running, {way}", median(samples), MOST_SECONDS, "s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--deploys", type=int, default=10, help="of each kind; 0: none")
    parser.add_argument("--port", type=int, default=16880)
    asyncio.run(main(parser.parse_args(namespace=SimpleNamespace())))
