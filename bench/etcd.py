"""Three etcd members from the distribution's package, and load on them from C clients.

h2load speaks gRPC to KV/Put, wrk speaks HTTP/1.1 with JSON to the gateway: quick clients, which take
little from the members on the same processors. All load goes to the leader; TLS is off. Debian's
packages are etcd-server, nghttp2-client and wrk.
"""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from node import Load

NEEDED = ("etcd", "h2load", "wrk")
FIRST_PORT = 24200
START_SECONDS = 20.0

WRK_REPORT = """
function done(summary, latency, requests)
  local e = summary.errors
  local bad = e.connect + e.read + e.write + e.status + e.timeout
  io.write(string.format("RESULT %d %d %d %d %d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), bad))
end
"""


def check_machine() -> None:
    """Leave with the reason when this machine cannot run the comparison."""
    if missing := [name for name in NEEDED if shutil.which(name) is None]:
        sys.exit(f"{', '.join(missing)} missing: apt-get install etcd-server nghttp2-client wrk")


@contextmanager
def members(folder: str | None, count: int = 3) -> Iterator[str]:
    """Yields the leader's URL."""
    names = [f"e{n}" for n in range(1, count + 1)]
    peers = {n: f"http://127.0.0.1:{FIRST_PORT + 2 * i}" for i, n in enumerate(names)}
    clients = {n: f"http://127.0.0.1:{FIRST_PORT + 2 * i + 1}" for i, n in enumerate(names)}
    cluster = ",".join(f"{name}={url}" for name, url in peers.items())
    with tempfile.TemporaryDirectory(prefix="etcd-bench-", dir=folder) as path:
        processes = [
            subprocess.Popen(
                [
                    *("etcd", "--name", name, "--data-dir", f"{path}/{name}"),
                    *("--listen-peer-urls", peers[name]),
                    *("--initial-advertise-peer-urls", peers[name]),
                    *("--listen-client-urls", clients[name]),
                    *("--advertise-client-urls", clients[name]),
                    *("--initial-cluster", cluster, "--initial-cluster-state", "new"),
                    *("--log-level", "error"),
                ],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for name in names
        ]
        try:
            yield _leader(list(clients.values()))
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()


def _leader(urls: list[str]) -> str:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        for url in urls:
            try:
                request = urllib.request.Request(f"{url}/v3/maintenance/status", data=b"{}")
                with urllib.request.urlopen(request, timeout=2) as answer:
                    status = json.load(answer)
            except OSError:
                continue
            if status.get("leader", "0") == status["header"]["member_id"]:
                return url
        time.sleep(0.1)
    raise TimeoutError("no etcd member leads")


def put_request(key: bytes, value: bytes) -> bytes:
    """A gRPC frame of etcdserverpb.PutRequest: key is field 1, value is field 2 (rpc.proto)."""

    def field(number: int, data: bytes) -> bytes:
        size, length = b"", len(data)
        while length > 0x7F:
            size += bytes((length & 0x7F | 0x80,))
            length >>= 7
        return bytes((number << 3 | 2,)) + size + bytes((length,)) + data

    message = field(1, key) + field(2, value)
    return b"\0" + len(message).to_bytes(4, "big") + message


def grpc_put(leader: str, callers: int, seconds: float, size: int) -> Load:
    """KV/Put over HTTP/2: up to 16 connections, the callers spread over them as streams."""
    connections = min(callers, 16)
    with tempfile.TemporaryDirectory(prefix="h2load-") as path:
        body, log = Path(path) / "body", Path(path) / "log"
        body.write_bytes(put_request(b"00000017", os.urandom(size)))
        warm_up = max(1, round(seconds / 5))
        said = subprocess.run(
            [
                *("h2load", "-t", "1", "-c", str(connections), "-m", str(callers // connections)),
                *("-D", str(round(seconds)), f"--warm-up-time={warm_up}"),
                *("-d", str(body), "--log-file", str(log)),
                *("-H", "content-type: application/grpc"),
                f"{leader}/etcdserverpb.KV/Put",
            ],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        failed = re.search(r"(\d+) failed, (\d+) errored", said)
        lines = [line.split("\t") for line in log.read_text().splitlines()]
        latencies = [int(took) / 1e6 for _, status, took in lines if status == "200"]
        if not latencies or (failed and failed.groups() != ("0", "0")):
            raise RuntimeError(f"etcd did not take the load: {said}")
        return Load.of(latencies, round(seconds))


def gateway_put(leader: str, callers: int, seconds: float, size: int) -> Load:
    """POST /v3/kv/put, another key each time: eight digits are a whole number of base64 groups."""
    value = base64.b64encode(os.urandom(size)).decode()
    script = f"""
local n = 0
function request()
  n = n + 1
  return wrk.format("POST", "/v3/kv/put", nil,
    string.format('{{"key":"%08d","value":"{value}"}}', n % 10000))
end
"""
    return wrk(leader, callers, seconds, script)


def wrk(
    url: str, callers: int, seconds: float, script: str, headers: Mapping[str, str] | None = None
) -> Load:
    """A closed loop of `callers` connections. `script` is Lua, which says what is asked for."""
    told = [part for name, value in (headers or {}).items() for part in ("-H", f"{name}: {value}")]
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script + WRK_REPORT)
        file.flush()
        said = subprocess.run(
            [
                *("wrk", "-t", "1", "-c", str(callers), "-d", f"{round(seconds)}s"),
                *("--timeout", "10s", *told, "-s", file.name, url),
            ],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+)", said)
    if found is None or int(found[5]):
        raise RuntimeError(f"{url} did not take the load: {said}")
    requests, took, p50, p99 = (int(found[n]) / 1e6 for n in range(1, 5))
    return Load(requests * 1e6 / took, p50, p99)
