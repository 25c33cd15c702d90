"""Proxies of one page in front of the same backend, each on one processor: Envoy with our configuration, bare
Envoy, HAProxy and nginx in their smallest ones. Used by `bench/ingress.py`.

Each is started with its files in a folder of its own, waited for, and ended by its process id.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import psutil

from orca_proto import worker_pb2 as pb
from orca_worker.proxy.bootstrap import bootstrap
from orca_worker.proxy.envoy import Tables, compile_files
from orca_worker.proxy.listeners import Settings
from orca_worker.proxy.process import program
from orca_worker.proxy.words import typed

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from engine import free_port

HERE = "127.0.0.1"
HOST = "app.example.com"
BODY = "x" * 200 + "\n"
PROXY_CPU, LOAD_CPU = 0, 1
START_SECONDS = 60.0
BOOTSTRAP = "bootstrap.json"

Parts = dict[str, Any]
"""Contents of an Envoy's files by name, its bootstrap among them."""
Change = Callable[[Parts], None]


class Proxy:
    """One that runs. `seconds`: of the processor, that it and its children have used."""

    def __init__(self, pid: int, port: int) -> None:
        self.port = port
        self._process = psutil.Process(pid)

    @property
    def program(self) -> str:
        """The file that runs, which the command may only have led to."""
        return self._process.exe()

    def seconds(self) -> float:
        every = [self._process, *self._process.children(recursive=True)]
        return sum(sum(each.cpu_times()[:2]) for each in every)


@contextmanager
def started(command: list[str], folder: Path, port: int, cpu: int) -> Iterator[Proxy]:
    """Once it answers 200. Raises SystemExit with its last words when it does not."""
    with (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen(
            ["taskset", "-c", str(cpu), *command], cwd=folder, stdout=output, stderr=output
        )
    try:
        until = time.monotonic() + START_SECONDS
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > until:
                said = (folder / "output.txt").read_text(errors="replace")
                raise SystemExit(f"error: {command[0]} does not answer: {said[-2000:]}")
            time.sleep(0.05)
        yield Proxy(process.pid, port)
    finally:
        process.terminate()
        process.wait()


def _answers(port: int) -> bool:
    try:
        with urlopen(Request(f"http://{HERE}:{port}/", headers={"Host": HOST}), timeout=5) as page:
            return bool(page.read() == BODY.encode())
    except OSError:
        return False


@contextmanager
def backend(folder: Path) -> Iterator[int]:
    """Its port. nginx where it is installed, as the proxies must wait for it as little as can be."""
    port = free_port()
    folder.mkdir()
    if shutil.which("nginx") is None:
        command = _envoy(folder, {BOOTSTRAP: _static(port, {"direct_response": _page()}, [])})
    else:
        server = f"server {{ listen {HERE}:{port}; location / {{ return 200 '{BODY}'; }} }}"
        command = _nginx_command(folder, server)
    with started(command, folder, port, LOAD_CPU):
        yield port


def _page() -> dict[str, Any]:
    return {"status": 200, "body": {"inline_string": BODY}}


def ours(to: int, *, access_log: bool = True, change: Change | None = None) -> "Starts":
    """What a worker writes for one service with a domain and default settings, and starts Envoy with.
    `change` takes parts of it away."""

    def start(folder: Path, port: int) -> list[str]:
        backends = [pb.Backend(address=HERE, port=to, weight=1, revision=1, task="t1")]
        pool = pb.Pool(name="default/default/web", backends=backends)
        route = pb.Route(
            path="/", pool=pool.name, idle_seconds=60.0, security_headers=True, redirect=True
        )
        tables = Tables({HOST: pb.Site(host=HOST, routes=[route])}, {pool.name: pool})
        settings = Settings(address=HERE, http_port=port, access_log=access_log)
        files = compile_files(tables, settings, str(folder), str(folder))
        written = {**files.listeners, **files.routes, **files.clusters, **files.endpoints}
        parts = {name: json.loads(content) for name, content in written.items()}
        parts[BOOTSTRAP] = json.loads(bootstrap("bench", str(folder)))
        if change is not None:
            change(parts)
        return _envoy(folder, parts)

    return start


def bare(to: int) -> "Starts":
    """One listener, one route, one cluster."""

    def start(folder: Path, port: int) -> list[str]:
        address = {"socket_address": {"address": HERE, "port_value": to}}
        cluster = {
            "name": "web",
            "type": "STATIC",
            "load_assignment": {
                "cluster_name": "web",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
            },
        }
        return _envoy(folder, {BOOTSTRAP: _static(port, {"route": {"cluster": "web"}}, [cluster])})

    return start


def _static(port: int, action: dict[str, Any], clusters: list[dict[str, Any]]) -> dict[str, Any]:
    router = typed("extensions.filters.http.router.v3.Router", {})
    hosts = [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, **action}]}]
    manager = typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        {
            "stat_prefix": "http",
            "route_config": {"virtual_hosts": hosts},
            "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
        },
    )
    name = "envoy.filters.network.http_connection_manager"
    listener = {
        "address": {"socket_address": {"address": HERE, "port_value": port}},
        "filter_chains": [{"filters": [{"name": name, "typed_config": manager}]}],
    }
    return {"static_resources": {"listeners": [listener], "clusters": clusters}}


def _envoy(folder: Path, parts: Parts) -> list[str]:
    for name, content in parts.items():
        (folder / name).write_text(json.dumps(content))
    own = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
    return [program(), "-c", BOOTSTRAP, *own]


def haproxy(to: int) -> "Starts":
    def start(folder: Path, port: int) -> list[str]:
        (folder / "haproxy.cfg").write_text(f"""
global
  nbthread 1
  maxconn 4000
defaults
  mode http
  http-reuse always
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend web
  bind {HERE}:{port}
  default_backend web
backend web
  server web {HERE}:{to}
""")
        return ["haproxy", "-db", "-f", "haproxy.cfg"]

    return start


def nginx(to: int) -> "Starts":
    def start(folder: Path, port: int) -> list[str]:
        return _nginx_command(
            folder,
            f"""
upstream web {{ server {HERE}:{to}; keepalive 256; keepalive_requests 1000000000; }}
server {{
  listen {HERE}:{port};
  location / {{ proxy_pass http://web; proxy_http_version 1.1; proxy_set_header Connection ''; }}
}}""",
        )

    return start


def _nginx_command(folder: Path, http: str) -> list[str]:
    (folder / "nginx.conf").write_text(f"""
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  {http}
}}
""")
    return ["nginx", "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]


Starts = Callable[[Path, int], list[str]]
"""Writes the files of a proxy that is to listen on this port; returns how it is started, in that folder."""


@contextmanager
def running(folder: Path, ways: dict[str, Starts]) -> Iterator[dict[str, Proxy]]:
    """All of them, until the end."""
    with ExitStack() as stack:
        found = {}
        for number, (name, starts) in enumerate(ways.items()):
            own, port = folder / f"proxy-{number}", free_port()
            own.mkdir()
            found[name] = stack.enter_context(started(starts(own, port), own, port, PROXY_CPU))
        yield found
