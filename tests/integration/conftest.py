"""Real clusters: the daemons as processes, as `orca up` starts them."""

import asyncio
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


class RealCluster:
    """One master and some workers on loopback; every process may be killed and started again."""

    def __init__(self, folder: Path, runtime: str, workers: int) -> None:
        folder.mkdir()
        self.folder = folder
        self.runtime = runtime
        self.workers = workers
        self.port = _free_ports()
        self.said: list[str] = []

    async def up(self) -> None:
        cluster = await local.up(
            self.folder,
            workers=self.workers,
            port=self.port,
            runtime=self.runtime,
            say=self.said.append,
        )
        self.api, self.token = cluster.api[0], cluster.token()

    async def down(self) -> None:
        await asyncio.to_thread(local.down, self.folder, say=self.said.append)

    @property
    def processes(self) -> dict[str, local.Process]:
        cluster = local.load(self.folder)
        assert cluster is not None
        return {process.name: process for process in cluster.processes}

    async def kill(self, *names: str) -> None:
        """SIGKILL, and wait until the kernel has taken the processes away."""
        for name in names:
            process = self.processes[name]
            os.kill(process.pid, signal.SIGKILL)
            while process.is_alive():
                await asyncio.sleep(0.005)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        async with Client(self.api, self.token) as client:
            yield client

    async def service(self, name: str) -> dict[str, Any]:
        async with self.client() as client:
            return next(s for s in await client.status() if s["name"] == name)

    async def until(self, name: str, seconds: float = 20.0, **expected: Any) -> dict[str, Any]:
        async with asyncio.timeout(seconds):
            while True:
                found = await self.service(name)
                if all(found[key] == value for key, value in expected.items()):
                    return found
                await asyncio.sleep(0.05)

    def cluster_id(self) -> str:
        identity = json.loads((self.folder / "master-1" / "identity.json").read_text())
        return str(identity["cluster_id"])


def _free_ports() -> int:
    """The first of three free ports in a row, below what the kernel and the runtime hand out.

    Each run of the tests, and each of its workers, begins at a place of its own.
    """
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    base = 10_000 + zlib.crc32(run.encode()) % 8 * 1_200 + int(worker) % 4 * 300
    for first in range(base, base + 300, 3):
        if first not in _taken and all(_is_free(port) for port in range(first, first + 3)):
            _taken.add(first)
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
async def _running(folder: Path, runtime: str, workers: int) -> AsyncIterator[RealCluster]:
    cluster = RealCluster(folder, runtime, workers)
    try:
        await cluster.up()
        yield cluster
    finally:
        await cluster.down()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def process_cluster(tmp_path: Path) -> AsyncIterator[RealCluster]:
    async with _running(tmp_path / "orca", "process", 1) as cluster:
        yield cluster


@pytest.fixture
async def two_workers(tmp_path: Path) -> AsyncIterator[RealCluster]:
    async with _running(tmp_path / "orca", "process", 2) as cluster:
        yield cluster


@pytest.fixture
async def engine_cluster(
    tmp_path: Path, engine_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[RealCluster]:
    monkeypatch.setenv("DOCKER_HOST", engine_url)
    async with _running(tmp_path / "orca", "docker", 1) as cluster:
        cluster_id = cluster.cluster_id()
        try:
            yield cluster
        finally:
            await cluster.down()
            client = engine.connect(engine_url)
            engine.clean(client, f"orca.cluster={cluster_id}")
            client.close()
