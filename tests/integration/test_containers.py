"""The whole line on a real engine: HTTP in, a container running, its true state back."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import docker
import pytest

import engine
from integration.conftest import RealCluster
from orca.client import Client

pytestmark = pytest.mark.engine

MIB = 1 << 20
PROGRAMS = Path(sys.executable).parent


@pytest.fixture
def docker_client(engine_url: str) -> Any:
    client = engine.connect(engine_url)
    yield client
    client.close()


def containers(client: docker.APIClient, cluster: RealCluster) -> dict[str, dict[str, Any]]:
    """Running containers of this cluster by id, with the engine's whole inspection."""
    labels = {"label": [f"orca.cluster={cluster.cluster_id()}"]}
    return {c["Id"]: client.inspect_container(c["Id"]) for c in client.containers(filters=labels)}


def documents_payload(image: str) -> dict[str, Any]:
    """The payload of API document 002 on a local image, without its secret."""
    return {
        "name": "my-app",
        "project": "frontend",
        "image": image,
        "replicas": 2,
        "port": 80,
        "domain": "app.example.com",
        "health": "/",
        "env": {"KEY": "value with spaces"},
        "resources": {"memory": "512Mi", "cpu": 1.0},
        "internal": True,
        "placement": {"node": "worker-1"},
        "command": ["busybox", "httpd", "-f", "-p", "80", "-h", "/www"],
    }


async def test_the_documents_payload_runs_with_its_limits_and_survives_its_daemons(
    engine_cluster: RealCluster, engine_image: str, docker_client: docker.APIClient
) -> None:
    cluster = engine_cluster
    async with cluster.client() as client:
        answer = await client.deploy([documents_payload(engine_image)])
        assert (answer["deployed"], answer["errors"]) == (["my-app"], [])
        running = containers(docker_client, cluster)
        assert len(running) == 2
        for inspected in running.values():
            host = inspected["HostConfig"]
            assert (host["Memory"], host["NanoCpus"]) == (512 * MIB, 1_000_000_000)
            assert "KEY=value with spaces" in inspected["Config"]["Env"]
            labels = inspected["Config"]["Labels"]
            assert labels["orca.project"] == "frontend"
            assert labels["orca.service"] == "my-app"
            assert labels["orca.revision"] == "1"
            assert {"orca.cluster", "orca.node", "orca.task"} <= labels.keys()
        await _every_replica_answers(await cluster.service("my-app"))
        await client.scale("my-app", 5)
        await cluster.until("my-app", running_replicas=5, status="running")
    before = containers(docker_client, cluster)
    assert len(before) == 5

    await cluster.kill("master-1", "worker-1")
    victim = next(iter(before))
    docker_client.kill(victim)
    await cluster.up()
    shown = await cluster.until("my-app", running_replicas=5, status="running")
    assert (shown["replicas"], shown["revision"]) == (5, 1)
    after = containers(docker_client, cluster)
    assert len(after) == 5
    untouched = set(before) - {victim}
    assert untouched < set(after)
    for kept in untouched:
        assert after[kept]["State"]["StartedAt"] == before[kept]["State"]["StartedAt"]
        assert after[kept]["RestartCount"] == 0


async def _every_replica_answers(service: dict[str, Any]) -> None:
    async with aiohttp.ClientSession() as http:
        for task in service["tasks"]:
            async with http.get(f"http://{task['address']}/") as response:
                assert response.status == 200
                assert await response.read() == engine.PAGE


async def test_images_that_do_not_exist_are_named_soon_and_disturb_nothing(
    engine_cluster: RealCluster,
    engine_image: str,
    registry: engine.Registry,
    docker_client: docker.APIClient,
) -> None:
    async with engine_cluster.client() as client:
        await client.deploy([documents_payload(engine_image)])
        before = set(containers(docker_client, engine_cluster))
        answer = await client.deploy(
            [
                {"name": "untagged", "image": f"{registry.address}/app:missing"},
                {"name": "nowhere", "image": "no-such-host.invalid/app:1"},
            ]
        )
    assert answer["deployed"] == []
    missing, nowhere = sorted(answer["errors"], key=lambda error: error.startswith("nowhere"))
    assert missing.startswith(f"untagged: image {registry.address}/app:missing not found")
    assert nowhere.startswith("nowhere: registry no-such-host.invalid cannot be reached")
    assert set(containers(docker_client, engine_cluster)) == before
    shown = await engine_cluster.service("my-app")
    assert (shown["status"], shown["running_replicas"]) == ("running", 2)


async def test_an_image_is_pulled_from_a_registry(
    engine_cluster: RealCluster,
    engine_image: str,
    registry: engine.Registry,
    docker_client: docker.APIClient,
) -> None:
    remote = f"{registry.address}/{engine_image.replace(':', '-')}:v1"
    engine.push_image(docker_client, engine_image, remote)
    async with engine_cluster.client() as client:
        answer = await client.deploy(
            [{"name": "pulled", "image": remote, "command": ["sleep", "1000"]}]
        )
    assert (answer["deployed"], answer["errors"]) == (["pulled"], [])


async def test_a_revision_runs_the_same_image_after_its_tag_has_moved(
    engine_cluster: RealCluster,
    engine_image: str,
    registry: engine.Registry,
    docker_client: docker.APIClient,
) -> None:
    """Also when the registry is lost, and the node still has the image."""
    assert registry.is_installed()  # the session has one of its own, which others need
    with engine.Registry() as own:
        remote = f"{own.address}/moving:main"
        other = engine.image_name("other")
        engine.build_image(docker_client, other)
        try:
            engine.push_image(docker_client, engine_image, remote)
            await _moves(engine_cluster, docker_client, remote, other)
            own.__exit__(None, None, None)
            async with engine_cluster.client() as client:
                old = (await client.revisions("web"))[1]["image_digest"]
                await client.rollback("web")
                shown = await engine_cluster.until(
                    "web", status="running", revision=1, rollout=None
                )
            there = [task for task in shown["tasks"] if task["state"] == "running"]
            assert {task["image_digest"] for task in there} == {old}
        finally:
            named = docker_client.images(remote.rpartition(":")[0])
            digests = [digest for image in named for digest in image["RepoDigests"]]
            images = (other, remote, *digests)
            engine.clean(docker_client, "orca.task=none", images=images)


async def _moves(
    cluster: RealCluster, docker_client: docker.APIClient, remote: str, other: str
) -> None:
    """The tag is pushed anew and pulled; the first revision keeps its image, the next one has the other."""
    service = {"name": "web", "image": remote, "command": ["sleep", "1000"]}
    service |= {"stop_grace_seconds": 0}
    async with cluster.client() as client:
        assert (await client.deploy([service]))["errors"] == []
        (first,) = await client.revisions("web")
        assert first["image_digest"].startswith("sha256:")
        (old,) = _images(docker_client, cluster)
        engine.push_image(docker_client, other, remote)
        docker_client.pull(*remote.rsplit(":", 1))
        assert docker_client.inspect_image(remote)["Id"] != old

        await client.scale("web", 3)
        await cluster.until("web", running_replicas=3)
        assert _images(docker_client, cluster) == {old}
        changed = service | {"replicas": 3, "env": {"MODE": "new"}, "pull_policy": "always"}
        assert (await client.deploy([changed]))["errors"] == []
        (second, _) = await client.revisions("web")
        assert second["image_digest"] != first["image_digest"]
        async with asyncio.timeout(60):
            while old in _images(docker_client, cluster):
                await asyncio.sleep(0.05)


def _images(client: docker.APIClient, cluster: RealCluster) -> set[str]:
    """The ids of images in running containers."""
    return {inspected["Image"] for inspected in containers(client, cluster).values()}


async def test_a_container_that_dies_is_replaced_and_its_code_told(
    engine_cluster: RealCluster, engine_image: str, docker_client: docker.APIClient
) -> None:
    async with engine_cluster.client() as client:
        service = {"name": "job", "image": engine_image, "command": ["sleep", "1000"]}
        await client.deploy([service])
        (first,) = containers(docker_client, engine_cluster)
        docker_client.kill(first)
        shown = await engine_cluster.until("job", status="failed")
        assert shown["reason"] == "replica 1: was killed by SIGKILL (exit code 137)"
        shown = await engine_cluster.until("job", status="running")
        assert shown["tasks"][0]["attempt"] == 1
        assert first not in containers(docker_client, engine_cluster)


async def test_a_container_that_was_removed_by_hand_is_replaced(
    engine_cluster: RealCluster, engine_image: str, docker_client: docker.APIClient
) -> None:
    async with engine_cluster.client() as client:
        service = {"name": "job", "image": engine_image, "command": ["sleep", "1000"]}
        await client.deploy([service])
        (first,) = containers(docker_client, engine_cluster)
        docker_client.remove_container(first, force=True)
        await engine_cluster.until("job", status="failed")
        await engine_cluster.until("job", status="running")


async def test_logs_come_from_the_containers(
    engine_cluster: RealCluster, engine_image: str
) -> None:
    script = "for i in $(seq 1 50); do echo line $i; done; echo to stderr >&2; sleep 1000"
    service = {"name": "talk", "image": engine_image, "command": ["sh", "-c", script]}
    async with engine_cluster.client() as client:
        await client.deploy([service])
        async with asyncio.timeout(60):
            while len(lines := await _log_lines(client, 100)) < 51:
                await asyncio.sleep(0.05)
        assert sorted(lines) == sorted([*(f"line {n}" for n in range(1, 51)), "to stderr"])
        assert await _log_lines(client, 3) == lines[-3:]


async def _log_lines(client: Client, tail: int) -> list[str]:
    text = b"".join([chunk async for chunk in client.logs("talk", tail=tail)])
    return text.decode().splitlines()


async def test_down_leaves_no_container_and_up_brings_the_same_state_back(
    engine_cluster: RealCluster, engine_image: str, docker_client: docker.APIClient
) -> None:
    async with engine_cluster.client() as client:
        await client.deploy([documents_payload(engine_image)])
    before = await engine_cluster.service("my-app")
    await engine_cluster.down()
    assert containers(docker_client, engine_cluster) == {}
    await engine_cluster.up()
    after = await engine_cluster.until("my-app", status="running", running_replicas=2)
    same = ("replicas", "image", "domain", "revision", "project")
    assert json.dumps([after[key] for key in same]) == json.dumps([before[key] for key in same])


async def test_devices_are_given_where_the_worker_has_them_and_else_it_is_said_which_is_missing(
    engine_cluster: RealCluster, engine_image: str, docker_client: docker.APIClient
) -> None:
    cluster = engine_cluster
    asked = {"has": "/dev/null", "forbidden": "/dev/zero", "absent": "/dev/not-there"}
    services = [
        {
            "name": name,
            "image": engine_image,
            "command": ["busybox", "sleep", "1000"],
            "devices": [{"path": path}],
        }
        for name, path in asked.items()
    ]
    await until_refused(cluster, services, asked)
    await cluster.kill("worker-1")
    folder = cluster.folder / "worker-1"
    words = ["--data-dir", str(folder), "--name", "worker-1", "--runtime", "docker"]
    allowed = {"ORCA_WORKER_ALLOWED_DEVICES": "/dev/null,/dev/not-there"}
    with (folder / "again.log").open("wb") as log:
        again = await asyncio.create_subprocess_exec(
            *(str(PROGRAMS / "orca-worker"), *words),
            env=os.environ | allowed,
            stdout=log,
            stderr=log,
        )
    try:
        await cluster.until("has", running_replicas=1, status="running")
        await until_refused(cluster, [], {name: asked[name] for name in ("forbidden", "absent")})
        said = await asyncio.to_thread(orca_says, cluster, "status", "forbidden", "--explain")
        assert "has no device /dev/zero to give" in said
        (inspected,) = containers(docker_client, cluster).values()
        assert inspected["HostConfig"]["Devices"][0]["PathOnHost"] == "/dev/null"
    finally:
        again.kill()
        await again.wait()


async def until_refused(
    cluster: RealCluster, deployed: list[dict[str, Any]], missing: dict[str, str]
) -> None:
    async with cluster.client() as client, asyncio.timeout(60):
        if deployed:
            await client.deploy(deployed, wait=False)
        for name, path in missing.items():
            reason = f"has no device {path} to give"
            whole = f"no node fits (1 node: {reason})"
            while True:
                found = await client.placement(name)
                if [replica["reason"] for replica in found["replicas"]] == [whole]:
                    break
                await asyncio.sleep(0.05)
            assert [(n["fits"], n["reason"]) for n in found["nodes"]] == [(False, reason)]


def orca_says(cluster: RealCluster, *words: str) -> str:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ORCA_")}
    return subprocess.run(
        [str(PROGRAMS / "orca"), *words],
        env=kept | {"ORCA_DATA_DIR": str(cluster.folder)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
