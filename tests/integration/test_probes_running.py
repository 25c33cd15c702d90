"""Probes on real processes and containers: who leaves, who comes back, who is replaced."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from integration.conftest import RealCluster

OFTEN = {"interval_seconds": 0.2, "failure_threshold": 2}


async def shown_when(cluster: RealCluster, is_so: Callable[[dict[str, Any]], Any]) -> Any:
    """The only replica of `web`, once that is so of it."""
    async with asyncio.timeout(60):
        while True:
            tasks = (await cluster.service("web"))["tasks"]
            if len(tasks) == 1 and is_so(tasks[0]):
                return tasks[0]
            await asyncio.sleep(0.05)


async def test_unready_leaves_and_returns_and_one_beyond_help_is_replaced(
    process_cluster: RealCluster, tmp_path: Path
) -> None:
    cluster, files = process_cluster, tmp_path / "files"
    files.mkdir()
    for name in ("ready", "alive"):
        (files / name).touch()
    serve = f"exec python3 -u -m http.server $PORT --bind 127.0.0.1 -d {files}"
    service = {
        "name": "web",
        "command": ["sh", "-c", serve],
        "port": 8080,
        "startup": {"tcp": True, "interval_seconds": 1, "failure_threshold": 60},
        "readiness": {"path": "/ready", **OFTEN},
        "liveness": {"command": ["test", "-f", str(files / "alive")], **OFTEN},
    }
    async with cluster.client() as client:
        assert (await client.deploy([service]))["deployed"] == ["web"]
    first = (await cluster.service("web"))["tasks"][0]

    (files / "ready").unlink()
    unready = await shown_when(cluster, lambda task: not task["healthy"])
    assert unready["reason"] == "readiness check http /ready: answered 404 (2 of 2)"
    assert "readiness check http /ready: answered 404" in unready["probes"]
    (files / "ready").touch()
    back = await shown_when(cluster, lambda task: task["healthy"])
    assert (back["id"], back["started_at"]) == (first["id"], first["started_at"])

    (files / "alive").unlink()
    again = await shown_when(cluster, lambda task: task["attempt"])
    assert again["id"] != first["id"]
    words = f"liveness check command test -f {files}/alive: exited with code 1 (2 of 2)"
    shown = await shown_when(cluster, lambda task: task["next_try_at"])
    assert shown["reason"].startswith(words)
    assert "GET /ready" in shown["reason"], "its last lines"
    (files / "alive").touch()
    await shown_when(cluster, lambda task: task["healthy"])


@pytest.mark.engine
async def test_probes_inside_a_container_and_on_a_port_that_is_not_published(
    engine_cluster: RealCluster, engine_image: str
) -> None:
    cluster = engine_cluster
    both = "httpd -p 8081 -h /www; exec httpd -f -p 8080 -h /www"
    service = {
        "name": "web",
        "image": engine_image,
        "command": ["sh", "-c", both],
        "port": 8080,
        "startup": {"command": ["sh", "-c", "exit 0"], "timeout_seconds": 30},
        "readiness": {"path": "/index.html", "port": 8081, **OFTEN},
        "liveness": {"command": ["sh", "-c", "! test -f /tmp/dead"], "timeout_seconds": 30},
    }
    async with cluster.client() as client:
        assert (await client.deploy([service]))["deployed"] == ["web"]
        bad = service | {"startup": None, "readiness": {"command": ["no-such-probe"]}}
        answer = await client.deploy([bad], timeout=3)
    (error,) = answer["errors"]
    assert "readiness check command no-such-probe: " in error
