"""Tokens: made once, refused at once."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from inprocess import InProcess, eventually, in_process
from orca_master.identity.model import TOKENS

TOKENS_PATH = "/api/v1/tokens"
FOLLOW = "/api/v1/services/web/logs?follow=true"


async def make(cluster: InProcess, name: str, role: str, **fields: Any) -> str:
    answer = await cluster.call("POST", TOKENS_PATH, {"name": name, "role": role} | fields)
    assert answer.status == 201, answer.text
    secret: str = answer.json["token"]
    return secret


async def test_a_token_is_shown_once_and_only_its_hash_is_kept(cluster: InProcess) -> None:
    secret = await make(cluster, "ci", "deployer")
    assert (await cluster.call("GET", "/api/v1/status", token=secret)).status == 200
    listed = await cluster.call("GET", TOKENS_PATH)
    assert [token["name"] for token in listed.json["tokens"]] == ["admin", "ci"]
    assert secret not in listed.text
    assert all(secret not in repr(token) for token in cluster.core.store.state.scan(TOKENS))
    assert secret not in (await cluster.call("GET", "/api/v1/audit")).text


async def test_a_revoked_token_is_refused_at_once(cluster: InProcess) -> None:
    secret = await make(cluster, "ci", "viewer")
    assert (await cluster.call("DELETE", f"{TOKENS_PATH}/ci")).status == 200
    answer = await cluster.call("GET", "/api/v1/status", token=secret)
    assert (answer.status, answer.json["error"]) == (401, "invalid token")
    assert (await cluster.call("DELETE", f"{TOKENS_PATH}/ci")).status == 404


async def test_a_stream_ends_when_its_token_is_revoked(
    cluster: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orca_master.http.server.REVOKED_SECONDS", 0.05)
    await cluster.deploy({"name": "web"})
    secret = await make(cluster, "ci", "viewer")
    (task,) = cluster.worker.machine.things
    cluster.worker.runtime.write(task, b"line\n")
    headers = {"Authorization": f"Bearer {secret}"}
    async with cluster.client.get(FOLLOW, headers=headers) as response:
        assert await response.content.readline() == b"line\n"
        await cluster.call("DELETE", f"{TOKENS_PATH}/ci")
        async with asyncio.timeout(60):
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.content.read()
    await eventually(lambda: cluster.worker.runtime.following == 0)


async def test_a_token_expires(cluster: InProcess) -> None:
    secret = await make(cluster, "short", "viewer", ttl=1.0)
    assert (await cluster.call("GET", "/api/v1/status", token=secret)).status == 200
    async with asyncio.timeout(60):
        while (answer := await cluster.call("GET", "/api/v1/status", token=secret)).status == 200:
            await asyncio.sleep(0.05)
    assert (answer.status, answer.json["error"]) == (401, "the token short has expired")
    (shown,) = [
        t for t in (await cluster.call("GET", TOKENS_PATH)).json["tokens"] if t["name"] == "short"
    ]
    assert shown["expired"]


async def test_the_last_admin_token_cannot_be_revoked(cluster: InProcess) -> None:
    answer = await cluster.call("DELETE", f"{TOKENS_PATH}/admin")
    assert answer.status == 409
    assert "orca tokens create" in answer.json["error"]
    await make(cluster, "of-a-project", "admin", project="shop")
    assert (await cluster.call("DELETE", f"{TOKENS_PATH}/admin")).status == 409
    second = await make(cluster, "second", "admin")
    assert (await cluster.call("DELETE", f"{TOKENS_PATH}/admin", token=second)).status == 200


async def test_a_name_is_used_once(cluster: InProcess) -> None:
    await make(cluster, "ci", "viewer")
    answer = await cluster.call("POST", TOKENS_PATH, {"name": "ci", "role": "admin"})
    assert answer.status == 409


async def test_a_token_of_a_project_sees_and_changes_only_that(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web", "project": "shop"}, {"name": "web", "project": "other"})
    shop = await make(cluster, "shop", "admin", project="shop")

    async def call(method: str, path: str, body: Any = None) -> Any:
        return await cluster.call(method, path, body, token=shop)

    seen = (await call("GET", "/api/v1/status")).json["services"]
    assert [(s["project"], s["name"]) for s in seen] == [("shop", "web")]
    assert (await call("GET", "/api/v1/status?project=other")).status == 403
    assert (await call("POST", "/api/v1/services/web/scale", {"replicas": 2})).status == 200
    assert (await call("DELETE", "/api/v1/services/web?project=other")).status == 403
    assert (await call("DELETE", "/api/v1/projects/other")).status == 403
    foreign = {"services": [{"name": "x", "image": "app:1", "project": "other"}]}
    assert (await call("POST", "/api/v1/deploy", foreign)).status == 403
    assert (await call("POST", "/api/v1/stop")).json["stopped"] == ["web"]
    statuses = {
        s["project"]: s for s in (await cluster.call("GET", "/api/v1/status")).json["services"]
    }
    assert statuses["other"]["desired_replicas"] == 1
    for path in ("/api/v1/cluster/info", "/api/v1/tokens", "/api/v1/audit"):
        assert (await call("GET", path)).status == 403


async def test_a_viewer_makes_no_tokens(cluster: InProcess) -> None:
    secret = await make(cluster, "v", "viewer")
    answer = await cluster.call("POST", TOKENS_PATH, {"name": "x", "role": "admin"}, token=secret)
    assert answer.status == 403


async def test_a_revoked_first_token_does_not_come_back_with_a_restart(tmp_path: Path) -> None:
    async with in_process(tmp_path / "m", with_node=False) as first:
        second = await make(first, "second", "admin")
        assert (await first.call("DELETE", f"{TOKENS_PATH}/admin", token=second)).status == 200
    async with in_process(tmp_path / "m", with_node=False) as again:
        assert (await again.call("GET", TOKENS_PATH)).status == 401
        assert (await again.call("GET", TOKENS_PATH, token=second)).status == 200
