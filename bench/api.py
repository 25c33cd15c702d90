"""Requests a second through a master's HTTP API, beside a bare aiohttp handler in the same run.

*bare* is one aiohttp process whose handler returns the very bytes that the master answered. The load is
`wrk`'s, with so many connections; on two processors it takes one of them. *status* is
`GET /api/v1/status` with 20 services, which a request of linearizable consistency cannot skip: a master
alone has no round trip for it. *deploy* is `POST /api/v1/deploy?wait=false` of one service that is
there already, with a check of the token, strict parsing, a transaction and a confirmed answer.

The engine's API is asked too, if there is one: `GET /_ping` over its Unix socket. That is beyond wrk,
so one Python client asks all of them in the same manner, a few callers at a time; it takes as long as
they do, and the rates are to be compared with each other only.
"""

import argparse
import asyncio
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from table import Gates, machine, milliseconds, percentile, print_table, ratio

from orca import local
from orca.client import Client

KIT_SHARE = 0.6
"""Of the bare handler's requests a second, at least."""
SERVICES = 20
PORT = 7460
CALLERS = 8
ENGINE = "/var/run/docker.sock"

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


async def ask_in_turn(address: str, path: str, token: str, *, seconds: float) -> Measured:
    """By `CALLERS` callers on a connection each. `address` is a URL, or the path of a Unix socket."""
    told = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    until, took = time.monotonic() + seconds, []

    async def caller() -> None:
        parts = urlsplit(address)
        if parts.scheme:
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        else:
            reader, writer = await asyncio.open_unix_connection(address)
        while (started := time.monotonic()) < until:
            writer.write(told)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            if not head.startswith(b"HTTP/1.1 200") or length is None:
                raise SystemExit(f"error: {address}{path} answered {head!r}")
            await reader.readexactly(int(length[1]))
            took.append(time.monotonic() - started)
        writer.close()

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return Measured(len(took) / seconds, percentile(took, 50), percentile(took, 99))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=32)
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("error: wrk is not installed (Debian's package wrk)")
    folder, gates = Path(tempfile.mkdtemp(prefix="orca-bench-")), Gates()
    try:
        cluster = asyncio.run(
            local.up(folder, workers=0, port=PORT, runtime="process", say=lambda _: None)
        )
        body = asyncio.run(fill(cluster))
        beside_bare(cluster, body, options, gates)
        beside_the_engine(cluster, options)
    finally:
        local.down(folder, say=lambda _: None)
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(1 if gates.missed else 0)


def beside_bare(
    cluster: local.Cluster, body: bytes, options: argparse.Namespace, gates: Gates
) -> None:
    token, api = cluster.token(), cluster.api[0]
    service = '{"name": "s1", "command": ["true"], "replicas": 0, "env": {"A": "b"}}'
    deploy = POST.replace("{body}", '{"services": [' + service + "]}")
    small = b'{"deployed":[],"errors":[],"accepted":["s1"]}\n'
    found: dict[str, list[Measured]] = {}
    with bare(PORT + 20, body) as large_url, bare(PORT + 21, small) as small_url:
        for _ in range(options.rounds):
            for name, url, script in (
                ("status, bare", large_url, ""),
                ("status, orca", f"{api}/api/v1/status", ""),
                ("deploy, bare", small_url, deploy),
                ("deploy, orca", f"{api}/api/v1/deploy?wait=false", deploy),
            ):
                measured = load(
                    url,
                    token,
                    seconds=options.seconds,
                    connections=options.connections,
                    script=script,
                )
                found.setdefault(name, []).append(measured)
    rates = {name: statistics.median(run.per_second for run in found[name]) for name in found}
    rows = [row(name, runs, rates[f"{name.split(',')[0]}, bare"]) for name, runs in found.items()]
    title = f"requests/s, {options.connections} connections, {options.rounds} rounds of"
    title += f" {options.seconds:g} s, {machine()}"
    print_table(title, ["way", "requests/s", "/bare", "p50", "p99"], rows)
    for name in ("status", "deploy"):
        share = rates[f"{name}, orca"] / rates[f"{name}, bare"]
        gates.at_least(f"{name}: requests/s beside a bare handler's", share, KIT_SHARE, "x")


def row(name: str, runs: list[Measured], reference: float) -> list[str]:
    rate = statistics.median(run.per_second for run in runs)
    p50 = statistics.median(run.p50 for run in runs)
    p99 = statistics.median(run.p99 for run in runs)
    return [name, f"{rate:,.0f}", ratio(rate, reference), milliseconds(p50), milliseconds(p99)]


def beside_the_engine(cluster: local.Cluster, options: argparse.Namespace) -> None:
    if not os.path.exists(ENGINE):
        print(f"no engine at {ENGINE}: not compared")
        return
    ways = {
        "engine, ping": (ENGINE, "/_ping"),
        "orca, health": (cluster.api[0], "/api/v1/health"),
        "orca, status": (cluster.api[0], "/api/v1/status"),
    }
    found: dict[str, list[Measured]] = {}
    for _ in range(options.rounds):
        for name, (address, path) in ways.items():
            measured = asyncio.run(
                ask_in_turn(address, path, cluster.token(), seconds=options.seconds)
            )
            found.setdefault(name, []).append(measured)
    reference = statistics.median(run.per_second for run in found["engine, ping"])
    rows = [row(name, runs, reference) for name, runs in found.items()]
    title = f"requests/s, one Python client, {CALLERS} callers, {machine()}"
    print_table(title, ["way", "requests/s", "/engine", "p50", "p99"], rows)


if __name__ == "__main__":
    main()
