"""Requests a second through a master's HTTP API, beside a bare aiohttp handler in the same run.

*bare* is one aiohttp process whose handler returns the very bytes that the master answered. The load is
`wrk`'s, with so many connections; on two processors it takes one of them. *status* is
`GET /api/v1/status` with 20 services, which a request of linearizable consistency cannot skip: a master
alone has no round trip for it. *deploy* is `POST /api/v1/deploy?wait=false` of one service that is
there already, with a check of the token, strict parsing, a transaction and a confirmed answer.
"""

import argparse
import asyncio
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from table import machine, milliseconds, print_table, ratio

from orca import local
from orca.client import Client

KIT_SHARE = 0.6
"""Of the bare handler's requests a second, at least."""
SERVICES = 20
PORT = 7460

BARE = """
import sys
from aiohttp import web
body = open(sys.argv[2], "rb").read()
async def answer(request):
    await request.read()
    return web.Response(body=body, content_type="application/json")
app = web.Application()
app.router.add_route("*", "/{path:.*}", answer)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)
"""

POST = """
wrk.method = "POST"
wrk.body = '{body}'
wrk.headers["Content-Type"] = "application/json"
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds."""

    per_second: float
    p50: float
    p99: float


def load(url: str, token: str, *, seconds: float, connections: int, script: str = "") -> Measured:
    """Raises SystemExit when an answer was an error."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency"]
        command += ["-H", f"Authorization: Bearer {token}"]
        command += ["-s", file.name] if script else []
        told = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in told:
        raise SystemExit(f"error: {url} answered errors:\n{told}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", told)
    assert rate is not None, told
    return Measured(float(rate[1]), _percentile(told, 50), _percentile(told, 99))


def _percentile(told: str, which: int) -> float:
    found = re.search(rf"{which}%\s+([\d.]+)(us|ms|s)", told)
    assert found is not None, told
    return float(found[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[found[2]]


@contextmanager
def bare(port: int, body: bytes) -> Iterator[str]:
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        process = subprocess.Popen([sys.executable, "-c", BARE, str(port), file.name])
        try:
            while subprocess.run(
                ["curl", "-s", f"http://127.0.0.1:{port}/"], capture_output=True, check=False
            ).returncode:
                pass
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.terminate()
            process.wait()


async def fill(cluster: local.Cluster) -> bytes:
    """Twenty services; returns what their status is answered with."""
    services = [
        {"name": f"s{n}", "command": ["true"], "replicas": 0, "env": {"A": "b"}}
        for n in range(SERVICES)
    ]
    async with Client(cluster.api, cluster.token()) as client:
        await client.deploy(services, wait=False)
        status = await client.status()
    assert len(status) == SERVICES
    command = ["curl", "-s", "-H", f"Authorization: Bearer {cluster.token()}"]
    return subprocess.run(
        [*command, f"{cluster.api[0]}/api/v1/status"], capture_output=True, check=True
    ).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=32)
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("error: wrk is not installed (Debian's package wrk)")
    folder = Path(tempfile.mkdtemp(prefix="orca-bench-"))
    try:
        cluster = asyncio.run(
            local.up(folder, workers=0, port=PORT, runtime="process", say=lambda _: None)
        )
        measure(cluster, options.rounds, options.seconds, options.connections)
    finally:
        local.down(folder, say=lambda _: None)
        shutil.rmtree(folder, ignore_errors=True)


def measure(cluster: local.Cluster, rounds: int, seconds: float, connections: int) -> None:
    body, token, api = asyncio.run(fill(cluster)), cluster.token(), cluster.api[0]
    service = '{"name": "s1", "command": ["true"], "replicas": 0, "env": {"A": "b"}}'
    deploy = POST.replace("{body}", '{"services": [' + service + "]}")
    small = b'{"deployed":[],"errors":[],"accepted":["s1"]}\n'
    found: dict[str, list[Measured]] = {}
    how = {"token": token, "seconds": seconds, "connections": connections}
    with bare(PORT + 20, body) as large_url, bare(PORT + 21, small) as small_url:
        for _ in range(rounds):
            for name, url, script in (
                ("status, bare", large_url, ""),
                ("status, orca", f"{api}/api/v1/status", ""),
                ("deploy, bare", small_url, deploy),
                ("deploy, orca", f"{api}/api/v1/deploy?wait=false", deploy),
            ):
                found.setdefault(name, []).append(load(url, script=script, **how))  # type: ignore[arg-type]
    rows = []
    for name, runs in found.items():
        middle = statistics.median(run.per_second for run in runs)
        reference = statistics.median(
            run.per_second for run in found[name.split(",")[0] + ", bare"]
        )
        rows.append(
            [
                name,
                f"{middle:,.0f}",
                ratio(middle, reference),
                milliseconds(statistics.median(run.p50 for run in runs)),
                milliseconds(statistics.median(run.p99 for run in runs)),
            ]
        )
    title = f"requests/s, {connections} connections, {rounds} rounds of {seconds:g} s, {machine()}"
    print_table(title, ["way", "requests/s", "/bare", "p50", "p99"], rows)


if __name__ == "__main__":
    main()
