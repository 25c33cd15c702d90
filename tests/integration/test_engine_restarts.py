"""The engine restarts under a running cluster: everything returns to what is wanted, once."""

import asyncio
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.conftest import RealCluster, running
from own_engine import IMAGE, PrivateEngine

WANTED = {"plain": 3, "asked": 2, "fenced": 1}
TOOLS = ("dockerd", "ip", "nsenter", "iptables", "busybox")


@pytest.fixture
def own_engine() -> Iterator[PrivateEngine]:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        assert not os.environ.get("CI"), f"root and {missing} are missing"
        pytest.skip(f"an engine of one's own needs root and {', '.join(TOOLS)}")
    folder = Path(tempfile.mkdtemp(prefix="orca-engine-"))  # a socket's path is short
    engine = PrivateEngine(folder, f"orca-test-{os.getpid()}")
    try:
        engine.start()
        yield engine
    finally:
        engine.stop()
        shutil.rmtree(folder, ignore_errors=True)


def services() -> list[dict[str, Any]]:
    more: dict[str, dict[str, Any]] = {
        "plain": {},
        "asked": {"readiness": {"command": ["echo", "well"]}},
        "fenced": {"fence": True},
    }
    common = {"image": IMAGE, "command": ["sleep", "100000"], "stop_grace_seconds": 1}
    return [{"name": n, "replicas": WANTED[n], **common, **more[n]} for n in WANTED]


def up(engine: PrivateEngine) -> dict[str, str]:
    """The services of the containers that run, by the container's id."""
    return {each["Id"]: each["Labels"]["orca.service"] for each in engine.client.containers()}


async def until_all_run(cluster: RealCluster, engine: PrivateEngine) -> dict[str, str]:
    """What runs when all is as wanted again; never is anything there once too often."""
    async with asyncio.timeout(120), cluster.client() as client:
        while True:
            found = await asyncio.to_thread(up, engine)
            assert Counter(found.values()) <= Counter(WANTED), "one runs twice"
            is_well = [service["status"] == "running" for service in await client.status()]
            if all(is_well) and Counter(found.values()) == Counter(WANTED):
                return found
            await asyncio.sleep(0.05)


async def test_an_engine_that_restarts_or_is_killed_gets_everything_back_once_ce_28(
    tmp_path: Path, own_engine: PrivateEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", own_engine.url)
    async with running(tmp_path / "orca", "docker", 1) as cluster:
        async with cluster.client() as client:
            assert (await client.deploy(services()))["errors"] == []
        before = await until_all_run(cluster, own_engine)
        for again in (own_engine.restart, own_engine.lose_power):
            await asyncio.to_thread(again)
            after = await until_all_run(cluster, own_engine)
            assert not after.keys() & before.keys(), "what ended is replaced, not started again"
            before = after
        async with cluster.client() as client:
            await client.scale("plain", 4)
            await cluster.until("plain", status="running", running_replicas=4)
        now = await asyncio.to_thread(up, own_engine)
        assert before.keys() <= now.keys(), "what came back stays"
        assert Counter(now.values()) == Counter(WANTED | {"plain": 4})
