"""A real `git push` deploys a real container from a real registry; a burst loses nothing."""

import asyncio
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import docker
import pytest

import engine
from forges import PUSHES, SECRET, SHA, body_of, github_push, signed
from integration.conftest import RealCluster, running

HOOK = Path(__file__).with_name("push_hook.py")
BURST = 2000
HOOKS = 20
"""So many webhooks share the burst that each one's deliveries are all kept."""


class Repository:
    """A bare repository with a post-receive hook, and a clone to push from."""

    def __init__(self, folder: Path, url: str, secret: str) -> None:
        self.bare, self.work = folder / "shop.git", folder / "work"
        self._git("init", "-q", "--bare", "-b", "main", str(self.bare), at=folder)
        hook = self.bare / "hooks" / "post-receive"
        hook.write_text(f"#!/bin/sh\nexec {sys.executable} {HOOK} {url} {secret} shop/web\n")
        hook.chmod(0o755)
        self._git("clone", "-q", str(self.bare), str(self.work), at=folder)
        self._git("checkout", "-q", "-b", "main")

    def _git(self, *words: str, at: Path | None = None) -> str:
        who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
        done = subprocess.run(
            ["git", *who, *words], cwd=at or self.work, capture_output=True, text=True, check=True
        )
        return done.stdout + done.stderr

    def commit(self, text: str) -> str:
        """The commit's id."""
        (self.work / "app.txt").write_text(text)
        self._git("add", "app.txt")
        self._git("commit", "-q", "-m", text)
        return self._git("rev-parse", "HEAD").strip()

    def push(self) -> str:
        """What the hook said."""
        return self._git("push", "origin", "main")


@pytest.fixture
def docker_client(engine_url: str) -> Any:
    client = engine.connect(engine_url)
    yield client
    client.close()


async def _ended(client: Any, hook: str, count: int) -> list[dict[str, Any]]:
    """All deliveries, the newest first, once so many are there and none is open."""
    async with asyncio.timeout(120):
        while True:
            found: list[dict[str, Any]] = await client.webhook_deliveries(hook, limit=100)
            if len(found) >= count and all(d["ended_at"] is not None for d in found):
                return found
            await asyncio.sleep(0.1)


@pytest.mark.engine
async def test_a_git_push_deploys_what_was_built_for_it(
    engine_cluster: RealCluster,
    engine_image: str,
    registry: engine.Registry,
    docker_client: docker.APIClient,
    tmp_path: Path,
) -> None:
    """First with the commit in the image's name, then by the digest of what the tag names now."""
    remote = f"{registry.address}/shop/web"
    engine.push_image(docker_client, engine_image, f"{remote}:main")
    async with engine_cluster.client() as client:
        answer = await client.deploy([{"name": "web", "image": f"{remote}:main", "port": 8080}])
        assert answer["errors"] == []
        webhook = {"repo": "shop/web", "service_name": "web", "secret": SECRET}
        made = await client.add_webhook(webhook | {"image": remote + ":{short_sha}"})
        url = f"{engine_cluster.api}/api/v1/webhooks/github"
        repository = Repository(tmp_path, url, SECRET)
        sha = repository.commit("A first version")
        engine.push_image(docker_client, engine_image, f"{remote}:{sha[:7]}")
        assert "remote: deploy: 202 accepted" in await asyncio.to_thread(repository.push)
        (delivery,) = await _ended(client, made["id"], 1)
        assert (delivery["state"], delivery["commit"]) == ("deployed", sha)
        service = await engine_cluster.service("web")
        assert (service["image"], service["status"]) == (f"{remote}:{sha[:7]}", "running")
        (newest, _) = await client.revisions("web")
        assert newest["message"] == f"{sha[:7]} A first version by Ada"

        await client.deploy([{"name": "web", "image": f"{remote}:main", "port": 8080}])
        await client.remove_webhook(made["id"])
        made = await client.add_webhook(webhook)
        repository.commit("A second version")
        assert "deploy: 202 accepted" in await asyncio.to_thread(repository.push)
        (delivery,) = await _ended(client, made["id"], 1)
        assert (delivery["state"], delivery["reason"]) == ("deployed", None)
        service = await engine_cluster.service("web")
        assert service["image"].startswith(f"{remote}:main@sha256:")
        repository.commit("Nothing new in the image")
        await asyncio.to_thread(repository.push)
        (delivery, _) = await _ended(client, made["id"], 2)
        assert delivery["reason"] == f"{service['image']} is what runs already"
        assert (await engine_cluster.service("web"))["revision"] == service["revision"]


@pytest.mark.engine
async def test_a_push_in_the_shape_of_every_forge_deploys_its_service(
    engine_cluster: RealCluster,
    engine_image: str,
    registry: engine.Registry,
    docker_client: docker.APIClient,
) -> None:
    """From one repository, each to the webhook of its own, and to no other's service."""
    remote = f"{registry.address}/shop/web"
    for tag in ("first", "main", SHA[:7]):
        engine.push_image(docker_client, engine_image, f"{remote}:{tag}")
    async with engine_cluster.client() as client, aiohttp.ClientSession() as session:
        first = [{"name": forge, "image": f"{remote}:first", "port": 8080} for forge in PUSHES]
        assert (await client.deploy(first))["errors"] == []
        for number, (forge, push) in enumerate(PUSHES.items(), start=1):
            tag = {"image": remote + ":{tag}", "tag": "*"}
            asked = {"repo": "shop/web", "service_name": forge, "forge": forge, "secret": SECRET}
            image = tag if forge == "registry" else {"image": remote + ":{short_sha}"}
            made = await client.add_webhook(asked | image)
            body = body_of(push)
            headers = signed(forge, body, at=time.time())
            url = f"{engine_cluster.api}{made['url']}"
            async with session.post(url, data=body, headers=headers) as answer:
                assert answer.status == 202, await answer.text()
            (delivery,) = await _ended(client, made["id"], 1)
            assert (forge, delivery["state"]) == (forge, "deployed"), delivery
            service = await engine_cluster.service(forge)
            wanted = "main" if forge == "registry" else SHA[:7]
            assert (service["image"], service["status"]) == (f"{remote}:{wanted}", "running")
            moved = [each["name"] for each in await client.status() if each["revision"] == 2]
            assert len(moved) == number


async def test_a_burst_over_three_masters_has_one_outcome_each_also_when_the_leader_is_killed(
    tmp_path: Path,
) -> None:
    async with running(tmp_path / "orca", "process", 1, masters=3) as cluster:
        command = ["sh", "-c", "exec sleep 1000"]
        async with cluster.client() as client:
            assert (await client.deploy([{"name": "web", "command": command}]))["errors"] == []
            made: dict[str, str] = {}
            for repo in (f"shop/web-{number}" for number in range(HOOKS)):
                webhook = {"repo": repo, "service_name": "web", "secret": SECRET}
                added = await client.add_webhook(webhook | {"image": "app:{short_sha}"})
                made[repo] = added["id"]
        acknowledged: Counter[tuple[str, int]] = Counter()
        async with aiohttp.ClientSession() as session:
            sending = [
                asyncio.create_task(_deliver(session, cluster, number, acknowledged))
                for number in range(BURST)
            ]
            while len(acknowledged) < BURST // 3:
                await asyncio.sleep(0.01)
            await cluster.kill(await cluster.leader())
            await asyncio.gather(*sending)
        assert len(acknowledged) == BURST
        assert set(acknowledged.values()) == {1}
        states: Counter[str] = Counter()
        async with cluster.client() as client:
            for repo, hook in made.items():
                found = await _ended(client, hook, BURST // HOOKS)
                told = {delivery for of, delivery in acknowledged if of == repo}
                assert {delivery["delivery"] for delivery in found} == told, repo
                states.update(delivery["state"] for delivery in found)
        assert states.keys() <= {"failed", "superseded"}  # a plain process has no image to change
        assert states.total() == BURST


async def _deliver(
    session: aiohttp.ClientSession,
    cluster: RealCluster,
    number: int,
    acknowledged: Counter[tuple[str, int]],
) -> None:
    """Until it is acknowledged, as a forge that is patient would, at one master after the other."""
    repo = f"shop/web-{number % HOOKS}"
    repository = {"id": 1, "name": "web", "full_name": repo, "private": True}
    body = body_of(github_push(after=f"{number + 1:040x}", before="", repository=repository))
    headers = signed("github", body, at=0.0)
    tried = number
    while True:
        api, tried = cluster.apis[tried % len(cluster.apis)], tried + 1
        try:
            async with session.post(
                f"{api}/api/v1/webhooks/github", data=body, headers=headers
            ) as answer:
                if answer.status in (200, 202):
                    (told,) = (await answer.json())["deliveries"]
                    acknowledged[repo, told["delivery"]] += 1
                    return
                assert answer.status in (503, 504), await answer.text()
        except (aiohttp.ClientError, OSError):
            pass
        await asyncio.sleep(0.1)
