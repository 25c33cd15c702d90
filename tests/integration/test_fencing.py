"""Fenced replicas of real workers that die, or stand still, seen from outside: each holds a ledger."""

import asyncio
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

import engine
from integration.conftest import RealCluster, running
from ledger import GUARD_SECONDS, PROGRAM, Ledger

ENGINES_BRIDGE = "172.17.0.1"


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
