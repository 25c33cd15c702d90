"""A worker is killed (SIGKILL) in the middle of what it asks of a real engine."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

import engine
from engine_door import engine_door
from integration.conftest import RealCluster, running

pytestmark = pytest.mark.engine

STEPS = {
    "pull": r"POST [^ ]*/images/create",
    "create": r"POST [^ ]*/containers/create",
    "start": r"POST [^ ]*/containers/[^/ ]+/start",
    "stop": r"POST [^ ]*/containers/[^/ ]+/kill",
}


async def test_a_worker_killed_in_any_step_goes_on_with_it_and_makes_nothing_twice_co_19(
    tmp_path: Path, engine_url: str, engine_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine_url.startswith("unix://"), "the door stands before a socket of this machine"
    if not engine.Registry.is_installed():
        assert not os.environ.get("CI"), "no registry program is installed"
        pytest.skip("no registry program is installed")
    socket = tmp_path / "engine.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{socket}")
    client = engine.connect(engine_url)
    try:
        async with engine_door(engine_url.removeprefix("unix://"), socket) as door:
            with engine.Registry() as registry:
                image = f"{registry.address}/step:1"
                await asyncio.to_thread(engine.push_image, client, engine_image, image)
                async with running(tmp_path / "orca", "docker", 1) as cluster:
                    label = f"orca.cluster={cluster.cluster_id()}"
                    try:
                        for step in STEPS:
                            for after in (False, True):
                                await _killed_in(cluster, client, door, image, step, after=after)
                    finally:
                        await cluster.down()
                        engine.clean(client, label, images=(image,))
    finally:
        client.close()


async def _killed_in(
    cluster: RealCluster, client: Any, door: Any, image: str, step: str, *, after: bool
) -> None:
    name = f"{step}-{'after' if after else 'before'}"
    service = {
        "name": name,
        "image": image,
        "command": ["busybox", "sleep", "1000"],
        "pull_policy": "always" if step == "pull" else "if-not-present",
        "stop_grace_seconds": 1,
    }
    async with cluster.client() as api, asyncio.timeout(90):
        if step == "stop":
            await api.deploy([service])
        door.stop(STEPS[step], after=after)
        if step == "stop":
            await api.scale(name, 0)
        else:
            await api.deploy([service], wait=False)
        await door.stopped.wait()
        before = {task["id"] for task in (await cluster.service(name))["tasks"]}
        await cluster.kill("worker-1")
        await cluster.up()
        labels = [f"orca.cluster={cluster.cluster_id()}", f"orca.service={name}"]
        if step != "stop":
            await cluster.until(name, running_replicas=1, status="running")
            after_it = {task["id"] for task in (await cluster.service(name))["tasks"]}
            assert after_it == before, f"{name}: the task that was begun is the one that runs"
            found = client.containers(all=True, filters={"label": labels})
            assert [each["Labels"]["orca.task"] for each in found] == list(before), name
            await api.scale(name, 0)
        while client.containers(all=True, filters={"label": labels}):
            await asyncio.sleep(0.05)
        while (await cluster.service(name))["tasks"]:
            await asyncio.sleep(0.05)
