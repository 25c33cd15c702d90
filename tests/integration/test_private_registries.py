"""Registries that ask who is there, with a real engine: pulls, look-ups, and what the files then hold."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import engine
from integration.conftest import RealCluster
from orca.errors import Refused
from token_server import TokenServer

pytestmark = pytest.mark.engine
ORCA = Path(sys.executable).parent / "orca"
USER, PASSWORD = engine.ACCOUNT


@pytest.fixture
def asking(engine_url: str, engine_image: str, tmp_path: Path) -> Iterator[list[engine.Registry]]:
    """Two registries with an image `shop/web:main`: one with passwords, one with a token server."""
    if not engine.Registry.is_installed():
        assert not os.environ.get("CI"), "no registry program is installed"
        pytest.skip("no registry program is installed")
    client = engine.connect(engine_url)
    pushed = []
    with ExitStack() as stack:
        tokens = stack.enter_context(TokenServer(tmp_path))
        made = [engine.Registry(with_password=True), engine.Registry(tokens.auth)]
        for registry in made:
            stack.enter_context(registry)
            remote = f"{registry.address}/shop/web:main"
            account = {"username": USER, "password": PASSWORD}
            engine.push_image(client, engine_image, remote, account)
            pushed.append(remote)
        yield made
        engine.clean(client, "orca.task=none", images=tuple(pushed))
    client.close()


def orca(cluster: RealCluster, *words: str, stdin: str = "", code: int = 0) -> str:
    """Both outputs."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("ORCA_")}
    kept |= {"ORCA_DATA_DIR": str(cluster.folder), "HOME": str(cluster.folder.parent)}
    done = subprocess.run(
        [str(ORCA), *words], input=stdin, env=kept, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done
    return done.stdout + done.stderr


def service(image: str, **more: Any) -> dict[str, Any]:
    return {"name": "web", "image": image, "port": 8080, "pull_policy": "always"} | more


async def test_a_private_image_is_pulled_and_looked_up_with_the_projects_account(
    engine_cluster: RealCluster, asking: list[engine.Registry]
) -> None:
    cluster = engine_cluster
    async with cluster.client() as client:
        for number, registry in enumerate(asking):
            host, project = registry.address, f"shop-{number}"
            image = f"{host}/shop/web:main"
            answer = await client.deploy([service(image, project=project)])
            assert f"refuses access to image {image}" in answer["errors"][0]
            assert f"asked without an account: `orca registry login {host}`" in answer["errors"][0]

            login = ["registry", "login", host, "-u", USER, "--password-stdin", "-p", project]
            refused = await asyncio.to_thread(orca, cluster, *login, stdin="wrong\n", code=1)
            assert f"registry {host} does not let {USER} in with this" in refused
            kept = await asyncio.to_thread(
                orca, cluster, *login, "--no-check", stdin="wrong-planted\n"
            )
            assert kept == f"{host}: {USER}, of project {project}\n"
            answer = await client.deploy([service(image, project=project, env={"A": "1"})])
            mend = f"(asked as {USER}: `orca registry login {host} --project {project}`)"
            assert mend in answer["errors"][0]

            said = await asyncio.to_thread(orca, cluster, *login, stdin=f"{PASSWORD}\n")
            assert said == f"{host}: {USER}, of project {project}\n"
            answer = await client.deploy([service(image, project=project, env={"A": "2"})])
            assert answer["errors"] == []

            answer = await client.deploy([service(image, project="other")], timeout=60)
            assert "asked without an account" in answer["errors"][0]
            await client.stop("web", project="other", purge=True)

            webhook = {"repo": "shop/web", "service_name": "web", "project": project}
            made = await client.add_webhook(webhook)
            assert (await client.test_webhook(made["id"]))["image"].startswith("sha256:")
            await client.registry_logout(host, project=project)
            with pytest.raises(Refused, match="asked without an account"):
                await client.test_webhook(made["id"])
            await client.registry_login(host, USER, PASSWORD)
            assert (await client.test_webhook(made["id"]))["image"].startswith("sha256:")
        listed = await client.registries()
    assert [(each["host"], each["project"]) for each in listed] == [
        (host, None) for host in sorted(registry.address for registry in asking)
    ]
    assert PASSWORD not in json.dumps(listed)
    assert await asyncio.to_thread(holding, cluster.folder) == []


def holding(folder: Path) -> list[Path]:
    """Files of masters and workers that have a password, as it is or as the engine is told."""
    found, seen = [], 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # it goes while we look
            if path.is_file():
                seen += 1
                content = path.read_bytes()
                if PASSWORD.encode() in content or b"wrong-planted" in content:
                    found.append(path)
    assert seen > 10
    return found
