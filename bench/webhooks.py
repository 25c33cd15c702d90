"""How soon a delivery is acknowledged, at 200 a second, beside a bare commit of the same master.

One master with its log on this disk, in processes of its own, without workers: every delivery is signed as
GitHub signs, is of another commit, and is kept durably before it is answered. A bare commit is a deploy
that changes one field of one row and nothing that runs, at the same rate.
"""

import argparse
import asyncio
import hashlib
import hmac
import json
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import aiohttp
from table import Gates, machine, milliseconds, percentile, print_table

from orca import local
from orca.client import Client

SECRET = "a-secret-of-this-benchmark"


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


async def main(options: SimpleNamespace) -> None:
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
    Gates().at_most("p99 beyond a bare commit", beyond * 1000, 25.0, "ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--port", type=int, default=16880)
    asyncio.run(main(parser.parse_args(namespace=SimpleNamespace())))
