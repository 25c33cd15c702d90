"""Real clusters: the daemons as processes, as `orca up` starts them."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import engine
from orca import local
from orca.client import Client
from orca.errors import OrcaError

PATIENT_SECONDS = 15.0
PATIENT_ROUNDS = 20
"""Where a test is not about lost nodes: a machine that stands still for a while loses none."""


class RealCluster:
    """Masters and workers on loopback; every process may be killed and started again."""

    def __init__(
        self,
        folder: Path,
        runtime: str,
        workers: int,
        masters: int = 1,
        down_after: float = PATIENT_SECONDS,
    ) -> None:
        folder.mkdir()
        self.down_after = down_after
        self.folder = folder
        self.runtime = runtime
        self.workers = workers
        self.masters = masters
        self.port = free_ports(3 * (masters + 1) + 2 * (workers + 1))
        self.ingress_port = self.port + 3 * (masters + 1)
        self.said: list[str] = []
        self.flags: list[str] = []
        """More of what each master is started with."""

    async def up(self) -> None:
        cluster = await local.up(
            self.folder,
            workers=self.workers,
            masters=self.masters,
            port=self.port,
            runtime=self.runtime,
            say=self.said.append,
            ingress_port=self.ingress_port,
            master_flags=["--node-down-after-seconds", str(self.down_after), *self.flags],
        )
        self.apis, self.token = cluster.api, cluster.token()
        self.api = cluster.api[0]

    async def down(self) -> None:
        await asyncio.to_thread(local.down, self.folder, say=self.said.append)

    @property
    def processes(self) -> dict[str, local.Process]:
        cluster = local.load(self.folder)
        assert cluster is not None
        return {process.name: process for process in cluster.processes}

    async def kill(self, *names: str) -> None:
        """SIGKILL, and wait until the kernel has taken the processes away."""
        processes = [self.processes[name] for name in names]
        for process in processes:
            os.kill(process.pid, signal.SIGKILL)
        for process in processes:
            while process.is_alive():
                await asyncio.sleep(0.005)

    def signal(self, name: str, number: signal.Signals) -> None:
        os.kill(self.processes[name].pid, number)

    @asynccontextmanager
    async def client(self, *apis: str) -> AsyncIterator[Client]:
        """Of these masters, or all; patient, for the machine may be busy."""
        async with Client(apis or self.apis, self.token, rounds=PATIENT_ROUNDS) as client:
            yield client

    async def leader(self) -> str:
        """The name of the master that leads, once one does and all can be reached."""
        async with asyncio.timeout(60), self.client() as client:
            while True:
                with contextlib.suppress(OrcaError):
                    found = (await client.masters())["masters"]
                    for master in found:
                        if master["role"] == "leader":
                            return str(master["name"])
                await asyncio.sleep(0.05)

    def api_of(self, name: str) -> str:
        return str(self.processes[name].api)

    async def service(self, name: str) -> dict[str, Any]:
        async with self.client() as client:
            return next(s for s in await client.status() if s["name"] == name)

    async def until(self, name: str, seconds: float = 60.0, **expected: Any) -> dict[str, Any]:
        async with asyncio.timeout(seconds):
            while True:
                found = await self.service(name)
                if all(found[key] == value for key, value in expected.items()):
                    return found
                await asyncio.sleep(0.05)

    def cluster_id(self) -> str:
        return str(self._identity("master-1")["cluster_id"])

    def id_of(self, master: str) -> str:
        return str(self._identity(master)["master_id"])

    def _identity(self, master: str) -> dict[str, Any]:
        identity: dict[str, Any] = json.loads((self.folder / master / "identity.json").read_text())
        return identity


def free_ports(count: int) -> int:
    """The first of so many free ports in a row, below what the kernel and the runtime hand out.

    Each run of the tests, and each of its workers, begins at a place of its own.
    """
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    base = 10_000 + zlib.crc32(run.encode()) % 2 * 4_800 + int(worker) % 8 * 600
    for first in range(base, base + 600 - count, 3):
        ports = range(first, first + count)
        if not _taken & set(ports) and all(_is_free(port) for port in ports):
            _taken.update(ports)
            return first
    raise AssertionError("no free ports")


_taken: set[int] = set()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@asynccontextmanager
async def running(
    folder: Path,
    runtime: str,
    workers: int,
    masters: int = 1,
    down_after: float = PATIENT_SECONDS,
) -> AsyncIterator[RealCluster]:
    cluster = RealCluster(folder, runtime, workers, masters, down_after)
    try:
        await cluster.up()
        yield cluster
    finally:
        await cluster.down()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def process_cluster(tmp_path: Path) -> AsyncIterator[RealCluster]:
    async with running(tmp_path / "orca", "process", 1) as cluster:
        yield cluster


@pytest.fixture
async def two_workers(tmp_path: Path) -> AsyncIterator[RealCluster]:
    async with running(tmp_path / "orca", "process", 2) as cluster:
        yield cluster


@pytest.fixture
async def three_masters(tmp_path: Path) -> AsyncIterator[RealCluster]:
    """With one worker."""
    async with running(tmp_path / "orca", "process", 1, masters=3) as cluster:
        yield cluster


@pytest.fixture
async def engine_cluster(
    tmp_path: Path, engine_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[RealCluster]:
    monkeypatch.setenv("DOCKER_HOST", engine_url)
    async with running(tmp_path / "orca", "docker", 1) as cluster:
        cluster_id = cluster.cluster_id()
        try:
            yield cluster
        finally:
            await cluster.down()
            client = engine.connect(engine_url)
            engine.clean(client, f"orca.cluster={cluster_id}")
            client.close()
