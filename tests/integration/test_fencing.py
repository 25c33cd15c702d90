"""Fenced replicas of real workers that die, or stand still, seen from outside: each holds a ledger.

The ledger is a server of the test. A replica connects, says its fencing token and holds the connection
for as long as it runs; the kernel closes it when the replica is killed.
"""

import asyncio
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import engine
from integration.conftest import RealCluster, running

GUARD_SECONDS = 120.0
PROGRAM = """
import os, socket, sys, time
ledger = socket.create_connection((sys.argv[1], int(sys.argv[2])))
ledger.sendall(os.environ["ORCA_FENCING_TOKEN"].encode() + b"\\n")
time.sleep(100000)
"""

ENGINES_BRIDGE = "172.17.0.1"


class Ledger:
    """`wrong`: what a fenced replica must never do."""

    def __init__(self) -> None:
        self.port = 0
        self.last = 0
        self.holders: set[int] = set()
        self.wrong: list[str] = []
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Ledger"]:
        server = await asyncio.start_server(self._hold, "0.0.0.0", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def next_after(self, token: int) -> int:
        """The token of a holder that began later."""
        async with asyncio.timeout(GUARD_SECONDS):
            while not self.holders or self.last <= token:
                self._changed.clear()
                await self._changed.wait()
        return self.last

    async def _hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            token = int(await reader.readline() or b"0")
            if token <= self.last:
                self.wrong.append(f"token {token} came after {self.last}")
            if self.holders:
                self.wrong.append(f"{token} began while {self.holders} held it")
            self.last = max(self.last, token)
            self.holders.add(token)
            self._changed.set()
            await reader.read()
            self.holders.discard(token)
        except ConnectionError:
            self.holders.clear()
        finally:
            writer.close()


def this_machine() -> str:
    """Its address as containers reach it, whatever networks the engine has made."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:  # a machine without a way out
            return ENGINES_BRIDGE
        return str(probe.getsockname()[0])


def service(ledger: Ledger) -> dict[str, object]:
    command = [sys.executable, "-c", PROGRAM, "127.0.0.1", str(ledger.port)]
    return {"name": "ledger", "command": command, "fence": True}


async def holder(cluster: RealCluster) -> str:
    """The name of the worker that runs it."""
    tasks = (await cluster.service("ledger"))["tasks"]
    return next(str(t["node"]) for t in tasks if t["state"] == "running")


async def until_well(cluster: RealCluster) -> None:
    await cluster.up()
    async with asyncio.timeout(GUARD_SECONDS), cluster.client() as client:
        while [n["state"] for n in (await client.cluster_info())["nodes"]] != ["ready"] * 2:
            await asyncio.sleep(0.1)
    await cluster.until("ledger", GUARD_SECONDS, status="running", running_replicas=1)


def report(what: str, started: float) -> None:
    print(f"fenced, {what}: replaced after {time.monotonic() - started:.1f} s")


@pytest.mark.timeout(600)
async def test_a_fenced_process_never_runs_twice_co_06_co_20(tmp_path: Path) -> None:
    """Its worker is killed, then stopped, then killed while the leader of the masters is stopped."""
    async with (
        Ledger().open() as ledger,
        running(tmp_path / "orca", "process", 2, masters=3, down_after=3.0) as cluster,
    ):
        async with cluster.client() as client:
            assert (await client.deploy([service(ledger)]))["errors"] == []
        token = await ledger.next_after(0)

        started = time.monotonic()
        await cluster.kill(await holder(cluster))
        token = await ledger.next_after(token)
        report("worker killed", started)
        await until_well(cluster)

        stopped, started = await holder(cluster), time.monotonic()
        cluster.signal(stopped, signal.SIGSTOP)
        try:
            token = await ledger.next_after(token)
            report("worker stopped", started)
        finally:
            cluster.signal(stopped, signal.SIGCONT)
        await until_well(cluster)

        leader, started = await cluster.leader(), time.monotonic()
        killed = await holder(cluster)
        cluster.signal(leader, signal.SIGSTOP)
        try:
            await cluster.kill(killed)
            token = await ledger.next_after(token)
            report("worker killed, leader stopped", started)
        finally:
            cluster.signal(leader, signal.SIGCONT)
        await until_well(cluster)
        assert ledger.wrong == []
        assert ledger.holders == {ledger.last}


@pytest.mark.engine
@pytest.mark.timeout(600)
async def test_a_fenced_container_never_runs_twice_co_20(
    tmp_path: Path, engine_url: str, engine_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker is killed, and its guardian ends it by the engine's socket; what is not fenced goes on."""
    monkeypatch.setenv("DOCKER_HOST", engine_url)
    async with (
        Ledger().open() as ledger,
        running(tmp_path / "orca", "docker", 2, down_after=3.0) as cluster,
    ):
        client_of_engine = engine.connect(engine_url)
        mine = {"label": [f"orca.cluster={cluster.cluster_id()}", "orca.service=free"]}
        try:
            hold = f"(echo $ORCA_FENCING_TOKEN; sleep 100000) | nc {this_machine()} {ledger.port}"
            fenced = {"name": "ledger", "image": engine_image, "fence": True}
            free = {"name": "free", "image": engine_image, "command": ["sleep", "100000"]}
            async with cluster.client() as client:
                wanted = [fenced | {"command": ["sh", "-c", hold]}, free | {"replicas": 2}]
                assert (await client.deploy(wanted))["errors"] == []
            token = await ledger.next_after(0)
            before = {c["Id"] for c in client_of_engine.containers(filters=mine)}
            started = time.monotonic()
            await cluster.kill(await holder(cluster))
            await ledger.next_after(token)
            report("worker of a container killed", started)
            assert before <= {c["Id"] for c in client_of_engine.containers(filters=mine)}
            await until_well(cluster)
            assert ledger.wrong == []
            assert ledger.holders == {ledger.last}
        finally:
            await cluster.down()
            engine.clean(client_of_engine, f"orca.cluster={cluster.cluster_id()}")
            client_of_engine.close()
